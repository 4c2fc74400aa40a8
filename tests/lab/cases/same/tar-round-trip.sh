# A large part of /usr through a pipe and back, compared.
#: timeout 400
mkdir /tmp/copy
tar -C /usr -cf - bin lib/git-core share/perl5 lib/python3 | tar -C /tmp/copy -xf -
for part in bin share/perl5; do
    (cd /usr/$part && find . -type f | LC_ALL=C sort | xargs md5sum) > /tmp/before
    (cd /tmp/copy/$part && find . -type f | LC_ALL=C sort | xargs md5sum) > /tmp/after
    cmp /tmp/before /tmp/after && echo "$part is the same"
done
find /tmp/copy -printf '%M %y %P %l\n' | LC_ALL=C sort | md5sum
tar -C /usr -cf - --sort=name bin | md5sum
