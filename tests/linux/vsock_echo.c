/* Sends 1 MiB over vsock to port 7 of the host, which echoes it, and compares. For tests/linux/judge.sh. */
#include <linux/vm_sockets.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

enum { TOTAL = 1 << 20, PIECE = 8192 };

static unsigned char expected(long i) { return (unsigned char)(i * 31 + (i >> 8)); }

int main(void) {
	struct sockaddr_vm host = {.svm_family = AF_VSOCK, .svm_cid = VMADDR_CID_HOST, .svm_port = 7};
	int s = socket(AF_VSOCK, SOCK_STREAM, 0);
	if (s < 0 || connect(s, (struct sockaddr *)&host, sizeof host)) return perror("vsock"), 1;
	unsigned char b[PIECE];
	if (fork() == 0) { /* writes while the parent reads: both directions at once */
		for (long done = 0; done < TOTAL; done += PIECE) {
			for (int i = 0; i < PIECE; i++) b[i] = expected(done + i);
			for (int off = 0, n; off < PIECE; off += n)
				if ((n = write(s, b + off, PIECE - off)) <= 0) return perror("write"), 1;
		}
		shutdown(s, SHUT_WR);
		return 0;
	}
	long got = 0;
	for (int n; (n = read(s, b, PIECE)) > 0; got += n)
		for (int i = 0; i < n; i++)
			if (b[i] != expected(got + i)) return fprintf(stderr, "byte %ld differs\n", got + i), 1;
	int status;
	wait(&status);
	printf("vsock: %ld bytes echoed, writer status %d\n", got, status);
	return got != TOTAL || status != 0;
}
