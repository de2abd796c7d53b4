// Acting on all that a search matches: count first, ask, then do it, showing how far it is. And the export of all of it.
import { html, useState } from "./base.js";
import { ask, events, get, parse, send, withQuery } from "./api.js";
import { confirm, toast } from "./dialog.js";
import { json, number, plural } from "./format.js";
import { Button, Meter } from "./parts.js";
import { link } from "./router.js";

export const PRIORITIES = [["high", "high (100)"], ["normal", "normal (500)"], ["low", "low (900)"]];
export const DELAY = { name: "delay", label: "Ready in how many seconds (0: now)", value: "0", type: "number" };
const PRIORITY = { name: "priority", label: "Priority", options: PRIORITIES, value: "high" };
const QUEUE = { name: "queue", label: "To the queue", value: "" };

export const ACTIONS = [
  { type: "Retry", verb: "Retry", text: "Dead jobs become ready again, with fresh attempts." },
  { type: "Cancel", verb: "Cancel", go: "Cancel jobs", text: "Waiting jobs end as cancelled; running ones are stopped.", danger: true },
  { type: "SetPriority", verb: "Change priority", fields: [PRIORITY], made: ({ priority }) => ({ priority }) },
  { type: "Reschedule", verb: "Reschedule", fields: [DELAY], made: ({ delay }) => ({ delay: Number(delay) }) },
  { type: "Move", verb: "Move", fields: [QUEUE], made: ({ queue }) => ({ queue }), text: "Waiting jobs go to another queue, where they get new ids." },
  { type: "Delete", verb: "Delete", text: "Dead jobs are deleted for good.", danger: true, needs: "DELETE /jobs/{id}" },
];
const EXPORT_PAGE = 1000;

/** Count, ask and do. `onProgress(done, selected)`; null when it is over. Resolves to what came of it, or null. */
export async function actOn(query, action, onProgress = () => {}) {
  const counted = await ask("POST", "/jobs/act", { body: { query, action: { type: action.type, ...blank(action) }, dry_run: true } });
  if (!counted.selected) {
    toast(`Nothing of what matches can be changed like this (${action.verb.toLowerCase()}).`, { level: "warn" });
    return null;
  }
  const scanned = counted.complete ? "" : ` Only the first ${number(counted.scanned)} of ${number(counted.total)} entries were looked at: repeat it for the rest.`;
  const values = await confirm({
    title: `${action.verb} ${plural(counted.selected, "job")}?`,
    text: html`<p>That match <code>${query}</code>. ${action.text}${scanned}</p>`,
    verb: action.go ?? action.verb,
    fields: action.fields,
    danger: action.danger,
  });
  if (!values) return null;
  try {
    const body = { query, action: { type: action.type, ...(action.made?.(values) ?? {}) }, dry_run: false };
    onProgress(0, counted.selected);
    const outcome = await done(await send("POST", "/jobs/act", { body, accept: "text/event-stream, application/json" }), onProgress);
    told(action, outcome);
    return outcome;
  } finally {
    onProgress(null);
  }
}

/** A dry run only counts, but its action has to be whole. */
const blank = (action) => ({ SetPriority: { priority: "high" }, Reschedule: { delay: 0 }, Move: { queue: "default" } })[action.type] ?? {};

async function done(answer, onProgress) {
  if (!answer.headers.get("content-type")?.startsWith("text/event-stream")) return parse(await answer.text());
  for await (const [name, value] of events(answer)) {
    if (name === "selecting") onProgress(value.scanned, value.total);
    else if (name === "progress") onProgress(value.done, value.selected);
    else if (name === "problem") throw Object.assign(new Error(value.detail), value);
    else if (name === "end") return value;
  }
  throw new Error("The connection ended before it was over: the trail says how much was done.");
}

function told(action, outcome) {
  const left = Object.entries(outcome.left ?? {}).map(([why, count]) => `${number(count)} left: ${why}`);
  const text = [`${action.verb}: ${plural(outcome.done, "job")} done`, ...left].join(", ");
  toast(text, { level: left.length ? "warn" : "ok", href: link("trail"), label: "Trail" });
}

/** Save all matches as JSON lines. */
export async function exportAll(query, me, onProgress) {
  const parts = me.can("GET /jobs/export") ? [await (await send("GET", withQuery("/jobs/export", { q: query }))).text()] : await pages(query, onProgress);
  const href = URL.createObjectURL(new Blob(parts, { type: "application/x-ndjson" }));
  Object.assign(document.createElement("a"), { href, download: `jobs-${new Date().toISOString().slice(0, 19)}.ndjson` }).click();
  URL.revokeObjectURL(href);
  const last = parts.at(-1)?.trimEnd().split("\n").at(-1);
  const problem = last && parse(last).problem; // it takes the place of a job where the search was cut off
  if (problem) throw Object.assign(new Error(problem.detail), problem);
}

async function pages(q, onProgress) {
  const lines = [];
  let cursor = "";
  do {
    const page = await get(withQuery("/jobs", { q, limit: EXPORT_PAGE, cursor }));
    lines.push(...page.jobs.map((job) => `${json(job)}\n`));
    onProgress(lines.length, lines.length + (page.total - page.scanned));
    ({ cursor } = page);
  } while (cursor);
  return lines;
}

export function BulkBar({ query, me, onDone }) {
  const [progress, setProgress] = useState(null);
  const track = (count, of) => setProgress(count === null ? null : { count, of });
  const guarded = (work) => async () => {
    try {
      await work();
    } catch (problem) {
      toast(problem.detail || String(problem), { level: "bad" });
    } finally {
      setProgress(null);
      onDone();
    }
  };
  const may = ACTIONS.filter((action) => me.can("POST /jobs/act") && (!action.needs || me.can(action.needs)));
  return html`<div class="bulk" role="group" aria-label="Actions on all that match">
    ${query && may.length > 0 && html`<span class="dim">All that match:</span>`}
    ${query && may.map((action) => html`<${Button} key=${action.type} kind=${action.danger ? "quiet danger" : "quiet"}
      onClick=${guarded(() => actOn(query, action, track))}>${action.verb}<//>`)}
    <${Button} kind="quiet" onClick=${guarded(() => exportAll(query, me, track))}>Export ${query ? "" : "all"}<//>
    ${progress && html`<span class="bulk-progress"><${Meter} value=${progress.count} most=${progress.of} label="Progress" />
      <span class="figure">${number(progress.count)} of ${number(progress.of)}</span></span>`}
  </div>`;
}
