// The charts of a range of time, of all queues or of one, from the history that workers keep.
import { html, useMemo } from "./base.js";
import { withQuery } from "./api.js";
import { Chart } from "./chart.js";
import { compact, number, span } from "./format.js";
import { usePoll } from "./live.js";
import { Section } from "./parts.js";

export const RANGES = [["60", "1 h"], ["360", "6 h"], ["1440", "24 h"], ["2880", "48 h"]];
const EVERY_MS = 15_000;
const rate = (value) => `${value < 10 ? Number(value.toFixed(2)) : compact(Math.round(value))}/s`;

/** The history of so many minutes ("": none is wanted), or nothing where this API has none. */
export function useHistory(me, minutes, queue) {
  const path = minutes && me.can("GET /history") ? withQuery("/history", { minutes, queue }) : "";
  return usePoll(path, EVERY_MS).data;
}

function columns(history) {
  const points = history.points;
  const of = (read) => points.map((point) => read(point) ?? null);
  const perSecond = (name) => of((point) => point[name] / history.step_s);
  const wait = (name) => of((point) => point.wait?.[name]);
  const depth = (name) => of((point) => point.depth?.[name]);
  return {
    times: points.map((point) => point.at_ms / 1000),
    throughput: [{ label: "done", tone: "green", values: perSecond("success"), fill: true }],
    failures: [
      { label: "retried", tone: "orange", values: of((point) => point.retried) },
      { label: "dead", tone: "red", values: of((point) => point.dead) },
    ],
    waits: [
      { label: "p50", tone: "blue", values: wait("p50_ms") },
      { label: "p95", tone: "violet", values: wait("p95_ms") },
      { label: "p99", tone: "red", values: wait("p99_ms") },
    ],
    depths: [
      { label: "high", tone: "red", values: depth("high") },
      { label: "normal", tone: "blue", values: depth("normal") },
      { label: "low", tone: "gray", values: depth("low") },
    ],
  };
}

export function History({ history, minutes, onMinutes }) {
  const shown = useMemo(() => history && columns(history), [history]);
  if (!shown) return null;
  const finished = history.points.reduce((sum, point) => sum + point.success, 0);
  const buttons = RANGES.map(
    ([value, text]) => html`<button type="button" aria-pressed=${minutes === value} onClick=${() => onMinutes(value)}>${text}</button>`,
  );
  return html`<${Section} title="History" aside=${html`<span class="choice" role="group" aria-label="Range">${buttons}</span>`}>
    <div class="charts">
      <${Chart} title="Throughput" note=${`${number(finished)} done`} times=${shown.times} series=${shown.throughput} format=${rate} />
      <${Chart} title="Failures" note="per step" times=${shown.times} series=${shown.failures} />
      <${Chart} title="Waiting time" times=${shown.times} series=${shown.waits} format=${span} />
      <${Chart} title="Depth by priority" times=${shown.times} series=${shown.depths} />
    </div>
  <//>`;
}
