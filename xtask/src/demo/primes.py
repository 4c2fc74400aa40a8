import platform, subprocess, threading
from concurrent.futures import ThreadPoolExecutor

def primes(bounds):
    low, high = bounds
    return sum(all(n % d for d in range(2, int(n**0.5) + 1)) for n in range(max(low, 2), high))

with ThreadPoolExecutor(4) as pool:
    found = sum(pool.map(primes, [(n, n + 2500) for n in range(0, 10000, 2500)]))
print(f"Python {platform.python_version()} on {platform.system()} {platform.machine()}")
print(f"{found} primes below 10,000, counted by 4 threads")
print("a child says:", subprocess.run(["echo", "hello"], capture_output=True, text=True).stdout.strip())
