// Data that keep themselves current: polls, and one stream of the queues' figures. Both rest while nobody sees the tab.
import { useEffect, useRef, useState } from "./base.js";
import { events, get, send } from "./api.js";

const sources = new Set();
const RETRY_MS = 3000;
const STALLED_MS = 20_000; // a stream that has said nothing for so long is opened anew
const SLOW_MS = 10_000; // what is read more seldom says little of how current a page is

export const isVisible = () => document.visibilityState !== "hidden";

/** Of what is shown: when the oldest part was read (0: one is not there yet), and whether a part is overdue. */
export function freshness() {
  const all = [...sources];
  const quick = all.filter((source) => source.interval.current <= SLOW_MS);
  const at = all.length ? Math.min(...(quick.length ? quick : all).map((source) => source.at)) : 0;
  const overdue = all.some((source) => Date.now() - (source.at || source.since) > 2 * source.interval.current + 5000);
  return { at, overdue, sources: all.length };
}

/** Something that is read again and again; `interval.current`: after how many milliseconds. */
function source(interval) {
  const made = { at: 0, since: Date.now(), interval };
  sources.add(made);
  return made;
}

/** Run `begin(signal)` while the tab is seen, again whenever it comes back into view; returns how to end it. */
function whileVisible(begin) {
  let controller;
  const turn = () => {
    controller?.abort();
    controller = undefined;
    if (isVisible()) begin((controller = new AbortController()).signal);
  };
  document.addEventListener("visibilitychange", turn);
  turn();
  return () => {
    document.removeEventListener("visibilitychange", turn);
    controller?.abort();
  };
}

const pause = (ms, signal) =>
  new Promise((resolve) => {
    const end = () => {
      clearTimeout(timer);
      signal.removeEventListener("abort", end);
      resolve();
    };
    const timer = setTimeout(end, ms);
    signal.addEventListener("abort", end);
  });

/** How often a search is repeated: one that looks at many entries seldom, since that costs the server something. */
export const bySearch = (page) => (page?.scanned > 20_000 ? 60_000 : 5000);

/** The value at a path, read again every so often (ms, or a function of the value): { data, problem, reload }. An empty path: nothing is read. */
export function usePoll(path, everyMs) {
  const [state, set] = useState({ path });
  const again = useRef(() => {});
  const interval = useRef();
  interval.current = typeof everyMs === "function" ? everyMs(state.data) : everyMs;
  useEffect(() => {
    if (!path) return undefined;
    const mine = source(interval);
    const once = async (signal) => {
      try {
        const data = await get(path, signal);
        mine.at = Date.now();
        if (!signal.aborted) set({ path, data });
      } catch (problem) {
        if (!signal.aborted) set((before) => ({ ...(before.path === path ? before : { path }), problem }));
      }
    };
    let stop = () => {};
    const start = () => {
      stop();
      stop = whileVisible(async (signal) => {
        while (!signal.aborted) {
          await once(signal);
          await pause(interval.current, signal);
        }
      });
    };
    again.current = start;
    start();
    return () => {
      stop();
      sources.delete(mine);
    };
  }, [path]);
  const current = state.path === path ? state : { path };
  return { data: current.data, problem: current.problem, reload: () => again.current() };
}

/** The figures of all queues, every second by the event stream: { data, problem }. Where there is no seat for a stream, by polling. */
export function useQueues() {
  const [state, set] = useState({});
  useEffect(() => {
    const mine = source({ current: 1000 });
    const put = (data) => {
      mine.at = Date.now();
      set({ data });
    };
    const fail = (problem) => set((before) => ({ ...before, problem }));
    const stop = whileVisible(async (signal) => {
      while (!signal.aborted) {
        try {
          await follow(signal, put, fail);
        } catch (problem) {
          if (!signal.aborted) await fallBack(problem, signal, put, fail);
        }
        await pause(RETRY_MS, signal);
      }
    });
    return () => {
      stop();
      sources.delete(mine);
    };
  }, []);
  return state;
}

async function follow(signal, put, fail) {
  const stalled = new AbortController();
  let timer;
  const wait = () => {
    clearTimeout(timer);
    timer = setTimeout(() => stalled.abort(), STALLED_MS);
  };
  try {
    wait();
    const answer = await send("GET", "/events", { signal: AbortSignal.any([signal, stalled.signal]), accept: "text/event-stream" });
    for await (const [name, value] of events(answer)) {
      wait();
      if (signal.aborted) return;
      if (name === "queues") put(value);
      if (name === "problem") fail(value);
    }
  } finally {
    clearTimeout(timer);
  }
}

async function fallBack(problem, signal, put, fail) {
  if (problem.name === "AbortError") return; // it had stalled
  if (problem.status !== 503) {
    fail(problem);
    return;
  }
  try {
    put(await get("/queues", signal));
  } catch (second) {
    fail(second);
  }
}
