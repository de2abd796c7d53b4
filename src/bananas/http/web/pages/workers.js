// Workers: slots, what runs and for how long, what it takes of its machine; drain and stop.
import { html } from "../base.js";
import { post } from "../api.js";
import { attempt, changed, confirm } from "../dialog.js";
import { bytes, number, plural, shortId } from "../format.js";
import { usePoll } from "../live.js";
import { Ago, Button, Empty, Head, Loading, Meter, ProblemBox, useTick } from "../parts.js";
import { jobLink, link } from "../router.js";

const ACTS = [
  ["drain", "Drain", "It takes no more jobs and finishes those that it runs. All processes of this worker do."],
  ["stop", "Stop", "It takes no more jobs, finishes what it can within its shutdown time, and ends. All processes of this worker do."],
];

export function WorkersPage({ me }) {
  useTick();
  const { data: workers, problem, reload } = usePoll("/workers", 2000);
  const slots = (workers ?? []).reduce((sum, worker) => sum + worker.slots, 0);
  const busy = (workers ?? []).reduce((sum, worker) => sum + worker.running.length, 0);
  const sorted = [...(workers ?? [])].sort((a, b) => a.host.localeCompare(b.host) || a.pid - b.pid);
  return html`<${Head} title="Workers"><span class="dim">${workers && `${plural(workers.length, "process", "processes")}, ${number(busy)} of ${plural(slots, "slot")} busy`}</span><//>
    <${ProblemBox} problem=${problem} />
    ${!workers && !problem && html`<${Loading} />`}
    ${workers?.length === 0 && html`<${Empty} title="No worker is alive.">Start one: <code>bananas worker module:app</code><//>`}
    ${sorted.map((worker) => html`<${Worker} key=${worker.boot} worker=${worker} me=${me} reload=${reload} />`)}`;
}

const PHASES = { quiet: "takes no more", stopping: "stopping" };

function Worker({ worker, me, reload }) {
  const name = `${worker.host}:${worker.pid}`;
  const facts = [
    worker.version && `v${worker.version}`,
    worker.memory_bytes != null && bytes(worker.memory_bytes),
    worker.cpu_percent != null && `${Math.round(worker.cpu_percent)} % of a core`,
    `supervisor ${worker.supervisor}`,
  ].filter(Boolean);
  return html`<section class="card worker" aria-label=${name}>
    <div class="group-head">
      <h2 class="grow">${name} ${PHASES[worker.phase] && html`<span class="tag warn">${PHASES[worker.phase]}</span>`}</h2>
      <span class="slots"><${Meter} value=${worker.running.length} most=${worker.slots} label=${`Slots of ${name}`} level=${worker.overdue.length ? "warn" : ""} />
        <span class="figure">${number(worker.running.length)} of ${plural(worker.slots, "slot")}</span></span>
      <span class="head-tools">${ACTS.map(([path, verb, text]) => html`<${Act} key=${path} ...${{ path, verb, text, worker, name, me, reload }} />`)}</span>
    </div>
    <p class="dim">${facts.join(" · ")} · up <${Ago} ms=${worker.started_ms} suffix=${false} /></p>
    <p class="dim">serves ${worker.queues.map((queue) => html`<a key=${queue} class="tag" href=${link("queues", queue.split(".")[0])}>${queue}</a>`)}
      ${worker.only_tasks?.length > 0 && html` only tasks ${worker.only_tasks.join(", ")}`}
      ${worker.only_priorities?.length > 0 && html` only priorities ${worker.only_priorities.join(", ")}`}</p>
    <${Runs} worker=${worker} />
    <details class="dim"><summary>knows ${plural(worker.tasks.length, "task")}</summary><p class="mono">${worker.tasks.join(", ")}</p></details>
  </section>`;
}

function Runs({ worker }) {
  const told = worker.runs?.length ? worker.runs : worker.running.map((id) => ({ id, overdue: worker.overdue.includes(id) }));
  if (!told.length) return null;
  return html`<ul class="runs">${told.slice(0, 50).map((run) => html`<li key=${run.id}>
    <a data-row href=${jobLink(run.id)}>${run.task ?? shortId(run.id)}</a><span class="mono dim">${shortId(run.id)}</span>
    ${run.overdue && html`<span class="tag bad">beyond its timeout</span>`}
    <span class="figure">${run.started_ms ? html`<${Ago} ms=${run.started_ms} suffix=${false} />` : ""}</span></li>`)}
    ${worker.running.length > 50 && html`<li class="dim">and ${number(worker.running.length - 50)} more</li>`}</ul>`;
}

function Act({ path, verb, text, worker, name, me, reload }) {
  if (!me.can(`POST /workers/{boot}/${path}`)) return null;
  const act = async () => {
    if (!(await confirm({ title: `${verb} ${name}?`, text, verb, danger: path === "stop" }))) return;
    await attempt(() => post(`/workers/${encodeURIComponent(worker.boot)}/${path}`), changed(`${name} was told`, `${name} was told before`));
    reload();
  };
  return html`<${Button} kind=${path === "stop" ? "danger" : ""} onClick=${act} aria-label=${`${verb} ${name}`}>${verb}<//>`;
}
