// The charts of a range of time, of all queues or of one, from the history that workers keep.
import { html, useMemo, useRef } from "./base.js";
import { withQuery } from "./api.js";
import { Chart } from "./chart.js";
import { compact, number, span } from "./format.js";
import { usePoll } from "./live.js";
import { Section, Span, Table } from "./parts.js";
import { quoted } from "./qualifiers.js";
import { search } from "./router.js";

export const RANGES = [["60", "1 h"], ["360", "6 h"], ["1440", "24 h"], ["2880", "48 h"]];
const EVERY_MS = 15_000;
const rate = (value) => `${value < 10 ? Number(value.toFixed(2)) : compact(Math.round(value))}/s`;

/** The history of so many minutes ("": none is wanted), or nothing where this API has none. */
export function useHistory(me, minutes, queue) {
  const path = minutes && me.can("GET /history") ? withQuery("/history", { minutes, queue }) : "";
  const { data } = usePoll(path, EVERY_MS);
  const last = useRef(); // stays while another range is read
  if (data) last.current = data;
  return path ? last.current : undefined;
}

function columns(history) {
  const points = history.points;
  const of = (read) => points.map((point) => read(point) ?? null);
  const lasted = (point) => Math.max(10, Math.min(history.step_s, (history.now_ms - point.at_ms) / 1000)); // the newest step is not over yet
  const perSecond = (name) => of((point) => point[name] / lasted(point));
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

const MOST_TASKS = 12;
const TASK_COLUMNS = [["Task"], ["Queue", "wide"], ["Done", "num"], ["Retried", "num wide"], ["Dead", "num"], ["Waited p95", "num wide"], ["Ran p50", "num wide"], ["Ran p95", "num"], ["Ran p99", "num wide"]];

/** What became of each task within the range; those that took the most time in all first. */
export function Tasks({ history }) {
  const weight = (task) => (task.run ? task.run.count * task.run.p50_ms : 0) + task.dead + task.success / 1e6;
  const tasks = [...(history?.tasks ?? [])].sort((a, b) => weight(b) - weight(a)).slice(0, MOST_TASKS);
  if (!tasks.length) return null;
  return html`<${Section} title="Tasks" aside="within the range, the costliest first">
    <${Table} label="Figures of tasks" columns=${TASK_COLUMNS}>${tasks.map((task) => html`<tr key=${`${task.queue}.${task.task}`}>
      <td class="task"><a data-row href=${search(`task:${quoted(task.task)}`)}>${task.task}</a></td><td class="wide">${task.queue}</td>
      <td class="num">${number(task.success)}</td><td class="num wide">${number(task.retried)}</td>
      <td class=${`num ${task.dead ? "bad" : "dim"}`}>${number(task.dead)}</td>
      <td class="num wide"><${Span} ms=${task.wait?.p95_ms} /></td><td class="num wide"><${Span} ms=${task.run?.p50_ms} /></td>
      <td class="num"><${Span} ms=${task.run?.p95_ms} /></td><td class="num wide"><${Span} ms=${task.run?.p99_ms} /></td></tr>`)}<//>
  <//>`;
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
