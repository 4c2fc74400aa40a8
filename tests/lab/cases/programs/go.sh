# Go: build a program and a package with tests, run both; the race for work among goroutines; signals; child processes.
#: timeout 1800
#: run --memory 2G
mkdir -p /tmp/go/sum && cd /tmp/go || exit
export GOFLAGS='-mod=mod -p=1' GOPROXY=off HOME=/tmp/home GOCACHE=/tmp/cache
cat > go.mod <<'END'
module example.org/show

go 1.19
END
cat > sum/sum.go <<'END'
// Package sum adds numbers in goroutines.
package sum

import "sync"

// Of adds the numbers below n, in k goroutines.
func Of(n, k int) int {
	results := make(chan int)
	var group sync.WaitGroup
	for part := 0; part < k; part++ {
		group.Add(1)
		go func(part int) {
			defer group.Done()
			sum := 0
			for i := part; i < n; i += k {
				sum += i
			}
			results <- sum
		}(part)
	}
	go func() { group.Wait(); close(results) }()
	total := 0
	for sum := range results {
		total += sum
	}
	return total
}
END
cat > sum/sum_test.go <<'END'
package sum

import (
	"os"
	"testing"
)

func TestOf(t *testing.T) {
	for _, k := range []int{1, 2, 7, 100} {
		if got := Of(10000, k); got != 49995000 {
			t.Errorf("Of(10000, %d) = %d", k, got)
		}
	}
}

func TestFiles(t *testing.T) {
	name := t.TempDir() + "/file"
	if err := os.WriteFile(name, []byte("text"), 0o600); err != nil {
		t.Fatal(err)
	}
	if text, err := os.ReadFile(name); err != nil || string(text) != "text" {
		t.Fatal(text, err)
	}
}

func TestFails(t *testing.T) {
	if os.Getenv("FAIL") != "" {
		t.Fatal("as asked")
	}
}
END
cat > main.go <<'END'
package main

import (
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"sync"
	"syscall"
	"time"

	"example.org/show/sum"
)

func main() {
	fmt.Println(sum.Of(1000000, 8), runtime.GOOS)
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGUSR1)
	syscall.Kill(os.Getpid(), syscall.SIGUSR1)
	fmt.Println(<-signals)

	listener, err := net.Listen("unix", "/tmp/go/socket")
	if err != nil {
		panic(err)
	}
	go func() {
		for {
			connection, err := listener.Accept()
			if err != nil {
				return
			}
			go io.Copy(connection, connection)
		}
	}()
	var group sync.WaitGroup
	for i := 0; i < 20; i++ {
		group.Add(1)
		go func(i int) {
			defer group.Done()
			connection, err := net.Dial("unix", "/tmp/go/socket")
			if err != nil {
				panic(err)
			}
			fmt.Fprintf(connection, "number %d", i)
			buffer := make([]byte, 100)
			if n, err := connection.Read(buffer); err != nil || string(buffer[:n]) != fmt.Sprintf("number %d", i) {
				panic(err)
			}
			connection.Close()
		}(i)
	}
	group.Wait()
	listener.Close()

	// One goroutine that never calls anything is preempted by a signal.
	done := false
	runtime.GOMAXPROCS(1)
	go func() { time.Sleep(20 * time.Millisecond); done = true; fmt.Println("preempted"); os.Stdout.Sync() }()
	for start := time.Now(); time.Since(start) < 100*time.Millisecond; {
	}
	output, err := exec.Command("sh", "-c", "echo from a child; exit 3").Output()
	fmt.Printf("%s%v %v\n", output, err, done)
	garbage := [][]byte{}
	for i := 0; i < 20000; i++ {
		garbage = append(garbage, make([]byte, 1000))
		if i%1000 == 0 {
			garbage = nil
		}
	}
	runtime.GC()
	defer func() { fmt.Println("recovered:", recover()); os.Exit(6) }()
	var nothing *int
	*nothing = 1
}
END
go build -o show . && ./show 2>&1; echo "code $?"
go test -vet=off -o sum.test ./sum 2>&1 | sed -E 's/[0-9.]+s$/TIME/'
FAIL=1 ./sum.test 2>&1 | sed -E 's/[0-9.]+s\)?$/TIME/'
go version -m show | grep -E 'path|mod'
