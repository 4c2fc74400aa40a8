# Ten thousand connections to one server at the same time, each of them answered twice.
#: timeout 600
#: run --memory 2G
python3 - <<'END'
import os, resource, selectors, socket
N = 10_000
resource.setrlimit(resource.RLIMIT_NOFILE, (N + 100, N + 100))
listener = socket.create_server(("127.0.0.1", 7000), backlog=1024)
child = os.fork()
if child == 0:
    listener.close()
    clients = [socket.create_connection(("127.0.0.1", 7000)) for _ in range(N)]
    for turn in range(2):
        for i, client in enumerate(clients):
            client.send(b"%d:%d" % (turn, i))
        for i, client in enumerate(clients):
            assert client.recv(100) == b"%d:%d" % (turn, i)
    os._exit(0)
poll = selectors.EpollSelector()
listener.setblocking(False)
poll.register(listener, selectors.EVENT_READ)
opened = closed = most = 0
while closed < N:
    for key, _ in poll.select():
        if key.fileobj is listener:
            try:
                while True:
                    client, _ = listener.accept()
                    client.setblocking(False)
                    poll.register(client, selectors.EVENT_READ)
                    opened += 1
                    most = max(most, opened - closed)
            except BlockingIOError:
                pass
        elif data := key.fileobj.recv(100):
            key.fileobj.send(data)
        else:
            poll.unregister(key.fileobj)
            key.fileobj.close()
            closed += 1
print(opened, most, os.waitpid(child, 0)[1])
END
