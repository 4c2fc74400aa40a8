# A small project with twenty objects, a library and a generated header, built by four jobs.
#: timeout 300
mkdir /tmp/project; cd /tmp/project
for i in $(seq 20); do
    printf '#include "sizes.h"\nint f%d(int x) { return x * %d + SIZE; }\n' $i $i > f$i.c
done
{ for i in $(seq 20); do echo "int f$i(int);"; done
  echo '#include <stdio.h>'; echo 'int main(void) { int sum = 0;'
  for i in $(seq 20); do echo "sum += f$i($i);"; done
  echo 'printf("%d\n", sum); return 0; }'; } > main.c
cat > Makefile <<'MAKE'
objects := $(patsubst %.c,%.o,$(filter-out main.c,$(wildcard *.c)))
program: main.o libf.a
	@$(CC) -o $@ $^
libf.a: $(objects)
	@ar rcD $@ $(sort $^)
%.o: %.c sizes.h
	@$(CC) -O1 -c -o $@ $<
sizes.h:
	@sleep 0.2; echo '#define SIZE 3' > $@
main.o: main.c
	@$(CC) -O1 -c -o $@ $<
MAKE
make -j4 && ./program && ls | wc -l && make -j4
touch f3.c; make -j4 -n | grep -c f3; make nothing 2>&1; echo "make: $?"
