# Node: files, child processes, worker threads, a server on a unix socket, streams with compression, timers, crypto.
#: timeout 600
#: run --memory 2G
mkdir /tmp/node && cd /tmp/node || exit
cat > main.js <<'END'
const fs = require('fs'), http = require('http'), zlib = require('zlib'), crypto = require('crypto'), path = require('path');
const { Worker } = require('worker_threads');
const { spawn, execFileSync } = require('child_process');
const { pipeline } = require('stream/promises');
const once = require('events').once;

const worker = n => new Promise((resolve, reject) => {
  const w = new Worker(`const { parentPort, workerData } = require('worker_threads');
    let a = 0; for (let i = 0; i < 1e6; i++) a = (a + i * workerData) % 1000003;
    parentPort.postMessage(a);`, { eval: true, workerData: n });
  w.once('message', resolve).once('error', reject);
});
async function main() {
  await fs.promises.writeFile('a', 'one\n'); await fs.promises.appendFile('a', 'two\n');
  console.log(fs.readFileSync('a', 'utf8'), fs.statSync('a').size, (await fs.promises.readdir('.')).join());
  console.log(await Promise.all([1, 2, 3, 4].map(worker)));
  const shared = new Int32Array(new SharedArrayBuffer(4));
  const w = new Worker(`const { workerData } = require('worker_threads');
    Atomics.store(workerData, 0, 7); Atomics.notify(workerData, 0);`, { eval: true, workerData: shared });
  Atomics.wait(shared, 0, 0, 20000); console.log('shared', shared[0]); await once(w, 'exit');

  const server = http.createServer((q, r) => { let n = 0; q.on('data', d => n += d.length);
    q.on('end', () => r.end(`${q.method} ${q.url} ${n}`)); });
  server.listen('/tmp/node/socket'); await once(server, 'listening');
  const ask = i => new Promise((resolve, reject) => { const q = http.request({ socketPath: '/tmp/node/socket',
    path: '/' + i, method: 'POST' }, async r => { let s = ''; for await (const d of r) s += d; resolve(s); });
    q.on('error', reject); q.end(Buffer.alloc(i * 1000)); });
  console.log((await Promise.all([...Array(50).keys()].map(ask))).slice(-3));
  server.close(); server.closeAllConnections?.();

  const child = spawn('sh', ['-c', 'cat; echo error >&2; exit 3']); let out = '', err = '';
  child.stdout.on('data', d => out += d); child.stderr.on('data', d => err += d); child.stdin.end('to the child\n');
  const [code] = await once(child, 'close'); console.log({ out, err, code });
  const sleeper = spawn('sleep', ['100']); sleeper.kill('SIGTERM'); console.log((await once(sleeper, 'exit'))[1]);
  console.log(execFileSync('uname', ['-s']).toString());

  fs.writeFileSync('big', Buffer.alloc(3e6, 'abcdefgh'));
  await pipeline(fs.createReadStream('big'), zlib.createGzip(), fs.createWriteStream('big.gz'));
  const hash = crypto.createHash('sha256');
  await pipeline(fs.createReadStream('big.gz'), zlib.createGunzip(), hash); console.log(hash.digest('hex'));
  console.log(crypto.pbkdf2Sync('a', 'b', 1000, 16, 'sha1').toString('hex'), crypto.randomBytes(8).length);

  const watcher = typeof fs.watchFile; console.log(watcher, path.resolve('x'), process.platform, process.getuid());
  const order = []; setTimeout(() => order.push('timeout'), 30); setImmediate(() => order.push('immediate'));
  process.nextTick(() => order.push('tick')); await new Promise(r => setTimeout(r, 60)); console.log(order.join());
  process.on('SIGUSR2', () => { console.log('signal'); process.exit(5); }); process.kill(process.pid, 'SIGUSR2');
  setInterval(() => {}, 1000);
}
main().catch(e => { console.error(e); process.exit(1); });
END
node main.js; echo "code $?"
node -e 'process.stdin.pipe(process.stdout)' < main.js | md5sum
node --max-old-space-size=50 -e 'a = []; for (;;) a.push(new Array(1e5).fill({}))' > /dev/null 2>&1; echo "out of memory: $?"
