// Queues: how deep, how old, who serves them, how fast they empty; and one of them.
import { html, useEffect, useRef, useState } from "../base.js";
import { post } from "../api.js";
import { attempt, changed, confirm, jobs } from "../dialog.js";
import { number, plural, priorityName, span } from "../format.js";
import { History, Tasks, useHistory } from "../history.js";
import { useQueues } from "../live.js";
import { Button, Empty, Fact, Head, Loading, Meter, ProblemBox, Section, Span, Table } from "../parts.js";
import { link, search } from "../router.js";

const WINDOW_MS = 60_000;
const LEAST_MS = 4_000;
const path = (name, rest = "") => `/queues/${encodeURIComponent(name)}${rest}`;

/** How fast the ready jobs of each queue grow (jobs per second; below 0: they become fewer), over the last minute that this page has seen. */
function useSlopes(queues) {
  const samples = useRef([]);
  useEffect(() => {
    if (!queues) return;
    const at = Date.now();
    samples.current.push({ at, ready: new Map(queues.map((queue) => [queue.name, queue.ready])) });
    while (samples.current[0].at < at - WINDOW_MS) samples.current.shift();
  }, [queues]);
  const first = samples.current[0];
  const last = samples.current.at(-1);
  return (name) => {
    const passed = last ? last.at - first.at : 0;
    if (passed < LEAST_MS || !first.ready.has(name)) return null;
    return ((last.ready.get(name) ?? 0) - first.ready.get(name)) / (passed / 1000);
  };
}

const signed = (value) => `${value > 0 ? "+" : ""}${Math.abs(value) < 10 ? value.toFixed(1) : number(Math.round(value))}/s`;

function drain(queue, slope) {
  if (!queue.ready) return "–";
  if (queue.paused) return "paused";
  if (slope === null) return "…";
  return slope < 0 ? span((queue.ready / -slope) * 1000) : "grows";
}

const outOf = (history, name) => {
  const own = (history?.tasks ?? []).filter((task) => task.queue === name);
  return own.reduce((sum, task) => sum + task.success + task.dead + task.other, 0) / ((history?.points.length || 1) * (history?.step_s || 60));
};

export function QueueTable({ queues, slopes = () => null, history, actions, brief }) {
  const columns = [["Queue"], ["Ready", "num"], ["Oldest", "num"], ["Running", "num wide"], ["Dead", "num"]];
  if (!brief) columns.push(["Slots busy", "num wide"], ["Scheduled", "num wide"], ["Change", "num wide"], ...(history ? [["Out", "num wide"]] : []), ["Drained in", "num wide"]);
  if (actions) columns.push(["Actions", "acts"]);
  return html`<${Table} label=${brief ? "The busiest queues" : "Queues"} columns=${columns}>
    ${queues.map((queue) => html`<tr key=${queue.name}>
      <td><a data-row href=${link("queues", queue.name)}>${queue.name}</a>${queue.paused && html`<span class="tag warn">paused</span>`}
        ${!queue.workers && queue.ready > 0 && html`<span class="tag bad">no worker</span>`}${queue.shards > 1 && html`<span class="tag">${queue.shards} shards</span>`}</td>
      <td class="num"><${Count} queue=${queue} state="ready" /></td>
      <td class=${`num ${queue.oldest_ms > 300_000 && !queue.paused ? "late" : ""}`}><${Span} ms=${queue.oldest_ms} /></td>
      <td class="num wide"><${Count} queue=${queue} state="running" /></td>
      <td class="num"><${Count} queue=${queue} state="dead" /></td>
      ${!brief && html`<td class="num wide">${number(queue.busy)} / ${number(queue.slots)}</td>
        <td class="num wide"><${Count} queue=${queue} state="scheduled" /></td>
        <td class="num wide dim">${slopes(queue.name) === null ? "…" : signed(slopes(queue.name))}</td>
        ${history && html`<td class="num wide dim">${outOf(history, queue.name).toFixed(1)}/s</td>`}
        <td class="num wide">${drain(queue, slopes(queue.name))}</td>`}
      ${actions && html`<td class="acts">${actions(queue)}</td>`}
    </tr>`)}
  <//>`;
}

function Count({ queue, state }) {
  const count = queue[state];
  if (!count) return html`<span class="dim">0</span>`;
  return html`<a class=${state === "dead" ? "bad" : ""} href=${search(`queue:${queue.name} state:${state}`)}>${number(count)}</a>`;
}

function Actions({ queue, me }) {
  const name = queue.name;
  const pause = async () => {
    const text = html`No worker takes jobs from <b>${name}</b> until it is resumed. Submits and running jobs go on.`;
    if (await confirm({ title: "Pause the queue?", text, verb: "Pause" }))
      await attempt(() => post(path(name, "/pause")), changed(`${name} is paused`, `${name} was paused already`));
  };
  const resume = () => attempt(() => post(path(name, "/resume")), changed(`${name} goes on`, `${name} was not paused`));
  const purge = async () => {
    const text = html`All ${plural(queue.ready + queue.scheduled, "waiting job")} of <b>${name}</b> end as purged. Running and dead ones stay. This cannot be undone.`;
    if (await confirm({ title: "Purge the queue?", text, verb: "Purge", danger: true, word: name }))
      await attempt(() => post(path(name, "/purge")), jobs("purged"));
  };
  return html`
    ${!queue.paused && me.can("POST /queues/{queue}/pause") && html`<${Button} onClick=${pause} aria-label=${`Pause ${name}`}>Pause<//>`}
    ${queue.paused && me.can("POST /queues/{queue}/resume") && html`<${Button} onClick=${resume} aria-label=${`Resume ${name}`}>Resume<//>`}
    ${me.can("POST /queues/{queue}/purge") && html`<${Button} onClick=${purge} kind="quiet danger" aria-label=${`Purge ${name}`}>Purge<//>`}`;
}

export function QueuesPage({ me, part }) {
  const { data: queues, problem } = useQueues();
  const slopes = useSlopes(queues);
  const recent = useHistory(me, part ? "" : "5");
  const anything = me.can("POST /queues/{queue}/pause");
  if (part) return html`<${OneQueue} key=${part} me=${me} name=${part} queues=${queues} slopes=${slopes} problem=${problem} />`;
  return html`<${Head} title="Queues" /><${ProblemBox} problem=${problem} />
    ${!queues && html`<${Loading} />`}
    ${queues?.length === 0 && html`<${Empty} title="No queue yet.">A queue begins with its first job.<//>`}
    ${queues?.length > 0 && html`<div class="card"><${QueueTable} queues=${queues} slopes=${slopes} history=${recent}
      actions=${anything && ((queue) => html`<${Actions} queue=${queue} me=${me} />`)} /></div>`}`;
}

function OneQueue({ me, name, queues, slopes, problem }) {
  const [minutes, setMinutes] = useState("60");
  const history = useHistory(me, minutes, name);
  const queue = queues?.find((each) => each.name === name);
  const head = html`<${Head} title=${`Queue ${name}`}>${queue && html`<${Actions} queue=${queue} me=${me} />`}<//><${ProblemBox} problem=${problem} />`;
  if (!queues) return html`${head}<${Loading} />`;
  if (!queue) return html`${head}<${Empty} title="There is no such queue.">A queue begins with its first job.<//>`;
  const most = Math.max(1, ...queue.priorities.map((each) => each.ready));
  const slope = slopes(name);
  return html`${head}
    <div class="card"><dl class="facts">
      <${Fact} name="Ready"><${Count} queue=${queue} state="ready" /><//><${Fact} name="Oldest"><${Span} ms=${queue.oldest_ms} /><//>
      <${Fact} name="Running"><${Count} queue=${queue} state="running" /><//><${Fact} name="Scheduled"><${Count} queue=${queue} state="scheduled" /><//>
      <${Fact} name="Next due">${queue.next_due_ms === null ? "–" : `in ${span(queue.next_due_ms)}`}<//><${Fact} name="Dead"><${Count} queue=${queue} state="dead" /><//>
      <${Fact} name="Workers">${number(queue.workers)}<//><${Fact} name="Slots busy">${number(queue.busy)} of ${number(queue.slots)}<//>
      <${Fact} name="Change">${slope === null ? "…" : signed(slope)}<//><${Fact} name="Drained in">${drain(queue, slope)}<//>
      <${Fact} name="State">${queue.paused ? "paused" : "open"}<//><${Fact} name="Shards">${queue.shards}<//>
    </dl></div>
    <${Section} title="Ready by priority">
      ${queue.priorities.length === 0 && html`<p class="dim">Nothing is ready.</p>`}
      <ul class="bars">${queue.priorities.map((each) => html`<li key=${each.priority}>
        <a href=${search(`queue:${name} state:ready priority:${each.priority}`)}>${priorityName(each.priority)}</a>
        <${Meter} value=${each.ready} most=${most} label=${`Priority ${each.priority}`} /><span class="figure">${number(each.ready)}</span>
        <span class="dim">oldest <${Span} ms=${each.oldest_ms} /></span></li>`)}</ul>
    <//>
    <${History} history=${history} minutes=${minutes} onMinutes=${setMinutes} />
    <${Tasks} history=${history} />`;
}
