// BullMQ: `node peer.mjs work` is one worker process, `node peer.mjs drive` the submitting side, which speaks the protocol of _driver.py.
import { Queue, QueueEvents, Worker } from 'bullmq';
import fs from 'node:fs';
import { createInterface } from 'node:readline';

const url = new URL(process.env.BENCH_URL);
const connection = { host: url.hostname, port: Number(url.port), maxRetriesPerRequest: null };
const counters = process.env.BENCH_COUNTER;
const now = () => process.hrtime.bigint(); // CLOCK_MONOTONIC, as Python's time.monotonic_ns()
const sleep = (ms) => new Promise((wake) => setTimeout(wake, ms));

// --- the worker -------------------------------------------------------------------------------------------------------
// The file of counter.py: int64s [0] ended [1] first start [2] last end [3] samples, and the samples from [16]. Node cannot map a file:
// the counters live in memory, their times are exact, and what changed is written every 2 ms.

function work() {
  const HEADER = 16, ROOM = 1 << 20, KEPT = 1 << 16;
  const file = fs.openSync(`${counters}/${process.pid}`, 'w+');
  fs.ftruncateSync(file, 8 * (HEADER + 2 * ROOM));
  const view = new BigInt64Array(HEADER + KEPT);
  let dirty = false;
  setInterval(() => {
    if (!dirty) return;
    dirty = false;
    fs.writeSync(file, new Uint8Array(view.buffer, 0, 8 * (HEADER + Number(view[3]))), 0, undefined, 0);
  }, 2);
  const start = () => { if (!view[1]) view[1] = now(); };
  const done = () => {
    start();
    view[2] = now();
    view[0] += 1n;
    dirty = true;
  };
  const handlers = {
    noop: async () => done(),
    sleep: async () => {
      start();
      await sleep(50);
      done();
    },
    pickup: async (payload) => {
      if (view[3] < BigInt(KEPT)) view[HEADER + Number(view[3]++)] = now() - BigInt(payload);
      done();
    },
    echo: async (payload) => payload,
  };
  new Worker('bench', (job) => handlers[job.name](job.data.payload), { connection, concurrency: Number(process.env.BENCH_SLOTS) });
}

// --- the driver -------------------------------------------------------------------------------------------------------

const text = (size) => '0123456789abcdef'.repeat(Math.ceil(size / 16)).slice(0, size);
const options = { removeOnComplete: true, removeOnFail: true };
const gap = ({ gap_s: [low, high] }) => sleep(1000 * (low + Math.random() * (high - low)));

function ended() {
  let count = 0;
  for (const name of fs.readdirSync(counters)) {
    const head = Buffer.alloc(8), file = fs.openSync(`${counters}/${name}`, 'r');
    if (fs.readSync(file, head, 0, 8, 0) === 8) count += Number(head.readBigInt64LE());
    fs.closeSync(file);
  }
  return count;
}

function openWindow({ n, cap_s = 600 }) {
  const began = now(), end = began + BigInt(Math.round(cap_s * 1e9)), ns = [];
  let left = n;
  return {
    ns,
    goesOn: () => left-- > 0 && now() < end,
    answer: (count) => ({ n: count, wall_s: Number(now() - began) / 1e9, ns }),
  };
}

async function drive() {
  const queue = new Queue('bench', { connection });
  await queue.waitUntilReady();
  let events;
  const clients = async (order) => {
    const data = { payload: text(order.size) };
    await Promise.all(Array.from({ length: order.clients }, () => queue.add(order.task, data, options)));
    const window = openWindow(order);
    const client = async () => {
      while (window.goesOn()) {
        const began = now();
        await queue.add(order.task, data, options);
        window.ns.push(Number(now() - began));
      }
    };
    await Promise.all(Array.from({ length: order.clients }, client));
    return window.answer(window.ns.length);
  };
  const orders = {
    async warm_up({ n }) {
      for (let turn = 0; turn < n; turn++) await queue.add('noop', { payload: text(100) }, options);
      return { n };
    },
    clients,
    one_by_one: (order) => clients({ ...order, clients: 1 }),
    async bulk(order) {
      const window = openWindow({ n: Infinity, cap_s: order.cap_s }), data = { payload: text(order.size) };
      let n = 0;
      while (n < order.n && window.goesOn()) {
        const length = Math.min(order.chunk, order.n - n);
        await queue.addBulk(Array.from({ length }, () => ({ name: order.task, data, opts: options })));
        n += length;
      }
      return window.answer(n);
    },
    async pick_up(order) {
      const window = openWindow(order);
      for (let turn = 0; turn < order.n; turn++) {
        await gap(order);
        const before = ended(), deadline = now() + 15_000_000_000n;
        await queue.add('pickup', { payload: String(now()) }, options);
        while (ended() === before) {
          if (now() > deadline) throw new Error(`job ${turn} was not run within 15 s`);
          await sleep(1);
        }
      }
      return window.answer(order.n);
    },
    async call(order) {
      events ??= new QueueEvents('bench', { connection });
      await events.waitUntilReady();
      const window = openWindow(order), sent = 'x'.repeat(16);
      for (let turn = 0; turn < order.warm + order.n; turn++) {
        await gap(order);
        const began = now();
        const job = await queue.add('echo', { payload: sent }, { removeOnComplete: { count: 1000 }, removeOnFail: true });
        const value = await job.waitUntilFinished(events, 15_000);
        if (turn >= order.warm) window.ns.push(Number(now() - began));
        if (value !== sent) throw new Error(`the result of echo is ${value}`);
      }
      return window.answer(order.n);
    },
  };
  const say = (answer) => fs.writeSync(1, JSON.stringify(answer) + '\n');
  say({ ready: true });
  for await (const line of createInterface({ input: process.stdin })) {
    const order = JSON.parse(line);
    try {
      say(await orders[order.do](order));
    } catch (error) {
      say({ error: String(error) });
      break;
    }
  }
  process.exit(0);
}

process.argv[2] === 'work' ? work() : await drive();
