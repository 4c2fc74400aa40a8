# OpenJDK: compile and run a threaded program; a jar; garbage collectors; files, processes, sockets of the file system.
#: timeout 1800
#: run --memory 2G
mkdir /tmp/java && cd /tmp/java || exit
cat > Main.java <<'END'
import java.io.*;
import java.net.*;
import java.nio.ByteBuffer;
import java.nio.channels.*;
import java.nio.file.*;
import java.util.*;
import java.util.concurrent.*;
import java.util.concurrent.atomic.*;
import java.util.stream.*;

public class Main {
    static long count;
    static synchronized void add() { count++; }

    public static void main(String[] arguments) throws Exception {
        Thread[] threads = new Thread[8];
        for (int i = 0; i < threads.length; i++) {
            threads[i] = new Thread(() -> { for (int j = 0; j < 20000; j++) add(); });
            threads[i].start();
        }
        for (Thread thread : threads) thread.join();
        System.out.println("synchronized " + count);

        ExecutorService pool = Executors.newFixedThreadPool(4);
        List<Future<Integer>> futures = new ArrayList<>();
        for (int i = 0; i < 20; i++) { int n = i; futures.add(pool.submit(() -> n * n)); }
        int sum = 0;
        for (Future<Integer> future : futures) sum += future.get();
        pool.shutdown();
        System.out.println("pool " + sum + " " + pool.awaitTermination(10, TimeUnit.SECONDS));
        System.out.println("parallel " + LongStream.range(0, 1_000_000).parallel().filter(x -> x % 3 == 0).sum());

        BlockingQueue<Integer> queue = new SynchronousQueue<>();
        Thread producer = new Thread(() -> { try { for (int i = 0; i < 500; i++) queue.put(i); } catch (InterruptedException e) {} });
        producer.start();
        long total = 0;
        for (int i = 0; i < 500; i++) total += queue.take();
        System.out.println("queue " + total);
        Thread sleeper = new Thread(() -> { try { Thread.sleep(100000); } catch (InterruptedException e) { System.out.println("interrupted"); } });
        sleeper.start(); sleeper.interrupt(); sleeper.join();

        Path file = Path.of("data");
        Files.write(file, IntStream.range(0, 1000).mapToObj(Integer::toString).collect(Collectors.toList()));
        try (FileChannel channel = FileChannel.open(file, StandardOpenOption.READ, StandardOpenOption.WRITE)) {
            ByteBuffer map = channel.map(FileChannel.MapMode.READ_WRITE, 0, channel.size());
            map.put(0, (byte) 'X');
            try (FileLock lock = channel.lock()) { System.out.println("locked " + lock.isValid()); }
        }
        System.out.println("mapped " + Files.readAllLines(file).get(0) + " " + Files.size(file));

        var address = UnixDomainSocketAddress.of("/tmp/java/socket");
        try (var server = ServerSocketChannel.open(StandardProtocolFamily.UNIX)) {
            server.bind(address);
            Thread client = new Thread(() -> {
                try (var channel = SocketChannel.open(address)) { channel.write(ByteBuffer.wrap("over a socket".getBytes())); }
                catch (IOException e) { e.printStackTrace(); }
            });
            client.start();
            try (var channel = server.accept()) {
                ByteBuffer buffer = ByteBuffer.allocate(100);
                while (channel.read(buffer) >= 0) {}
                System.out.println(new String(buffer.array(), 0, buffer.position()));
            }
            client.join();
        }
        Process process = new ProcessBuilder("sh", "-c", "cat; exit 4").start();
        try (var out = process.getOutputStream()) { out.write("to a process".getBytes()); }
        System.out.println(new String(process.getInputStream().readAllBytes()) + " " + process.waitFor());

        byte[][] garbage = new byte[100][];
        for (int i = 0; i < 2000; i++) garbage[i % 100] = new byte[200_000];
        System.out.println("garbage " + garbage.length);
        try { recurse(0); } catch (StackOverflowError e) { System.out.println("stack overflow caught"); }
        try { Object o = null; o.hashCode(); } catch (NullPointerException e) { System.out.println("null caught"); }
        Runtime.getRuntime().addShutdownHook(new Thread(() -> System.out.println("hook")));
        System.exit(7);
    }
    static int recurse(int n) { return recurse(n + 1) + 1; }
}
END
javac -J-XX:TieredStopAtLevel=1 Main.java && ls | sort | tr '\n' ' '; echo
for collector in Serial G1; do
    java -XX:+Use${collector}GC -Xmx256m Main; echo "$collector: $?"; rm socket
done
printf 'Main-Class: Main\n' > manifest; jar cfm main.jar manifest Main*.class; java -Xint -jar main.jar | tail -3
java -Xmx32m -cp . Missing 2>/dev/null; echo "missing: $?"
