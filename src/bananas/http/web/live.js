// Data that keep themselves current: polls, and one stream of the queues' figures. Both rest while nobody sees the tab.
import { useEffect, useRef, useState } from "./base.js";
import { events, get, send } from "./api.js";

const sources = new Map();
const RETRY_MS = 3000;

export const isVisible = () => document.visibilityState !== "hidden";

/** Of what is shown: when the oldest part was read (0: nothing yet), and whether a part is overdue. */
export function freshness() {
  const all = [...sources.values()];
  const at = all.length ? Math.min(...all.map((source) => source.at)) : 0;
  const overdue = all.some((source) => Date.now() - (source.at || source.since) > 2 * source.everyMs + 5000);
  return { at, overdue, sources: all.length };
}

function source(everyMs) {
  const made = { at: 0, since: Date.now(), everyMs };
  sources.set(made, made);
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
    const timer = setTimeout(resolve, ms);
    signal.addEventListener("abort", () => (clearTimeout(timer), resolve()));
  });

/** The value at a path, read again every so often: { data, problem, reload }. An empty path: nothing is read. */
export function usePoll(path, everyMs) {
  const [state, set] = useState({ path });
  const again = useRef(() => {});
  useEffect(() => {
    if (!path) return undefined;
    const mine = source(everyMs);
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
          await pause(everyMs, signal);
        }
      });
    };
    again.current = start;
    start();
    return () => {
      stop();
      sources.delete(mine);
    };
  }, [path, everyMs]);
  const current = state.path === path ? state : { path };
  return { data: current.data, problem: current.problem, reload: () => again.current() };
}

/** The figures of all queues, every second by the event stream: { data, problem }. Where there is no seat for a stream, by polling. */
export function useQueues() {
  const [state, set] = useState({});
  useEffect(() => {
    const mine = source(1000);
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
  for await (const [name, value] of events(await send("GET", "/events", { signal, accept: "text/event-stream" }))) {
    if (signal.aborted) return;
    if (name === "queues") put(value);
    if (name === "problem") fail(value);
  }
}

async function fallBack(problem, signal, put, fail) {
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
