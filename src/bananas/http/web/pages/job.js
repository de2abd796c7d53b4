// One job: what became of it so far, why it does not run, what it was called with, and what can be done.
import { html, useEffect, useState } from "../base.js";
import { ask, get, post } from "../api.js";
import { ACTIONS, actOn, DELAY, PRIORITIES } from "../bulk.js";
import { attempt, changed, confirm, toast } from "../dialog.js";
import { number, priorityName, span } from "../format.js";
import { usePoll } from "../live.js";
import { Ago, Button, Copy, Fact, Head, Loading, Meter, ProblemBox, Section, Span, State, Stored, useTick } from "../parts.js";
import { quoted } from "../qualifiers.js";
import { jobLink, link, search } from "../router.js";

const WAITING = ["ready", "scheduled"];
const ALIVE = [...WAITING, "running", "dead"];

export function JobPage({ id, me }) {
  useTick();
  const path = `/jobs/${encodeURIComponent(id)}`;
  const [ended, setEnded] = useState(false);
  const { data, problem, reload } = usePoll(`${path}/why`, ended ? 30_000 : 2000);
  const job = data?.job;
  const over = Boolean(job) && !ALIVE.includes(job.state);
  useEffect(() => setEnded(over), [over]);
  const { data: result } = usePoll(over && job.state !== "unknown" ? `${path}/result` : "", 60_000);
  const { data: workers } = usePoll(job?.state === "running" ? "/workers" : "", 5000);
  const run = (workers ?? []).flatMap((worker) => worker.runs ?? []).find((each) => each.id === id);
  if (!job) return html`<${Head} title="Job" /><p class="mono id">${id}</p>${problem ? html`<${ProblemBox} problem=${problem} />` : html`<${Loading} />`}`;
  return html`
    <${Head} title=${job.task ?? result?.task ?? "Job"}><${Actions} job=${job} path=${path} me=${me} reload=${reload} /><//>
    <p class="mono id"><${State} state=${job.state} /> <span>${id}</span> <${Copy} text=${id} label="Copy the id" /></p>
    <${ProblemBox} problem=${problem} />
    <${Why} reasons=${data.reasons} job=${job} />
    <${Progress} job=${job} />
    <div class="two">
      <div>
        <${Facts} job=${job} me=${me} />
        <${Timeline} job=${job} run=${run} />
      </div>
      <div>
        <${Call} job=${job} />
        <${Result} result=${result} />
        <${Log} job=${job} />
      </div>
    </div>
    <${Failures} job=${job} result=${result} />
    <${Stack} job=${job} path=${path} me=${me} />`;
}

function Why({ reasons, job }) {
  const title = WAITING.includes(job.state) ? "Why is it not running?" : job.state === "running" ? "What it is doing" : "What became of it";
  return html`<section class="card why" aria-label=${title}><h2>${title}</h2>
    <ul>${reasons.map((reason) => html`<li key=${reason.kind} data-kind=${reason.kind}><span class="tag">${reason.kind.replaceAll("_", " ")}</span>
      <span>${reason.sentence}${reason.kind === "moved" && reason.figures.id && html` <a href=${jobLink(reason.figures.id)}>Open it</a>`}</span></li>`)}</ul>
  </section>`;
}

function Progress({ job }) {
  if (job.progress === null || job.progress === undefined) return null;
  return html`<section class="card progress" aria-label="Progress"><h2>Progress</h2>
    <${Meter} value=${job.progress} most=${1} label="Progress" /><span class="figure">${Math.round(job.progress * 100)} %</span><span>${job.progress_text}</span></section>`;
}

function Trace({ id, page }) {
  if (!page) return html`<span class="mono">${id}</span>`;
  return html`<a class="mono" href=${page.replace("{trace_id}", encodeURIComponent(id))} target="_blank" rel="noreferrer">${id}</a>`;
}

function Facts({ job, me }) {
  const trace = (job.headers?.traceparent ?? "").split("-")[1];
  const row = (name, value) => (value === null || value === undefined || value === "" ? null : html`<${Fact} name=${name}>${value}<//>`);
  return html`<${Section} title="Facts"><dl class="facts">
    ${row("Queue", html`<a href=${link("queues", job.queue)}>${job.queue}</a>${job.queue_paused && html`<span class="tag warn">paused</span>`}`)}
    ${row("Task", job.task && html`<a href=${search(`task:${quoted(job.task)}`)}>${job.task}</a>`)}
    ${row("Priority", ALIVE.includes(job.state) && `${priorityName(job.priority)}${priorityName(job.priority) === String(job.priority) ? "" : ` (${job.priority})`}`)}
    ${row("Tries", `${number(job.attempts)} failed${job.max_retries === null ? "" : ` of ${number(job.max_retries + 1)} at most`}`)}
    ${row("Crashes", job.crashes || null)}
    ${row("Ahead of it", job.place !== null && job.state === "ready" ? number(job.place) : null)}
    ${row("Timeout", job.timeout === null ? null : job.timeout === 0 ? "none" : span(job.timeout * 1000))}
    ${row("Worker", job.worker && html`<a href=${link("workers")}>${job.worker}</a>`)}
    ${row("Lease until", job.lease_expires_ms && html`<${Ago} ms=${job.lease_expires_ms} />`)}
    ${row("Ran for", job.run_ms !== null && job.finished_ms ? html`<${Span} ms=${job.run_ms} />` : null)}
    ${row("Tags", job.tags?.length ? job.tags.map((tag) => html`<span class="tag">${tag}</span>`) : null)}
    ${row("Trace", trace && html`<${Trace} id=${trace} page=${me.trace_page} /> <${Copy} text=${trace} label="Copy the trace id" />`)}
    ${Object.entries(job.headers ?? {}).filter(([name]) => name !== "traceparent").map(([name, value]) => row(`Header ${name}`, html`<span class="mono">${value}</span>`))}
  </dl></${Section}>`;
}

/** What happened, in the order of time: [ms, text, tone, more]. */
function moments(job, run) {
  const list = [[job.born_ms, "submitted", "gray"]];
  job.errors.forEach((error) => list.push([error.at_ms, `attempt ${error.attempt} failed`, "red", `${error.type}: ${error.message}`, error.worker]));
  list.push([job.ready_since_ms, "ready", "blue"], [job.started_ms ?? run?.started_ms, "started", "amber", "", job.worker]);
  list.push([job.finished_ms, job.state, job.state === "success" ? "green" : "red"], [job.died_ms, "dead", "red"], [job.due_ms, "due", "violet"]);
  return list.filter(([ms]) => ms).sort((a, b) => a[0] - b[0]);
}

function Timeline({ job, run }) {
  const list = moments(job, run);
  if (!list.length) return null;
  const gap = (index) => (index === 0 ? "" : `+${span(list[index][0] - list[index - 1][0])}`);
  return html`<${Section} title="Timeline"><ol class="timeline">
    ${list.map(([ms, text, tone, more, worker], index) => html`<li class=${tone}><i aria-hidden="true"></i><span class="grow">${text}
      ${more && html`<span class="dim clip">${more.slice(0, 300)}</span>`}${worker && html`<span class="dim"> on ${worker}</span>`}</span>
      <span class="dim figure">${gap(index)}</span><span class="figure"><${Ago} ms=${ms} /></span></li>`)}
    ${job.state === "running" && html`<li class="amber now"><i aria-hidden="true"></i><span class="grow">running</span>
      ${run?.started_ms && html`<span class="dim figure">for <${Ago} ms=${run.started_ms} suffix=${false} /></span>`}</li>`}
  </ol></${Section}>`;
}

function Call({ job }) {
  if (job.unreadable) return html`<${Section} title="Arguments"><p>Not shown: ${job.unreadable}</p><//>`;
  if (job.args === null && job.kwargs === null) {
    return html`<${Section} title="Arguments"><p class="dim">They went with the job when it ended.</p><//>`;
  }
  const empty = !job.args?.length && !Object.keys(job.kwargs ?? {}).length;
  return html`<${Section} title="Arguments">
    ${empty && html`<p class="dim">It has none.</p>`}
    ${job.args?.length > 0 && html`<${Stored} value=${job.args} label="Positional arguments" />`}
    ${Object.keys(job.kwargs ?? {}).length > 0 && html`<${Stored} value=${job.kwargs} label="Named arguments" />`}
  <//>`;
}

function Result({ result }) {
  if (!result?.ended || !("value" in result)) return null;
  return html`<${Section} title="Result"><${Stored} value=${result.value} label="Result" /><//>`;
}

function Log({ job }) {
  if (!job.log?.length) return null;
  return html`<${Section} title="Log" aside=${number(job.log.length)}><ol class="log" tabindex="0">
    ${job.log.map((line) => html`<li><${Ago} ms=${line.at_ms} />${job.attempts > 0 && line.attempt && html`<span class="dim" title="attempt">${line.attempt}</span>`}<span>${line.text}</span></li>`)}</ol><//>`;
}

function Failures({ job, result }) {
  const list = [...job.errors].reverse();
  if (!list.length && result?.error_type) {
    list.push({ attempt: result.attempts, type: result.error_type, message: result.error_message, traceback: result.traceback, at_ms: job.finished_ms, worker: job.worker });
  }
  if (!list.length) return null;
  return html`<${Section} title="Errors" aside="the newest first">
    ${list.map((error, index) => html`<details class="failure" open=${index === 0}>
      <summary><span class="error-type">${error.type}</span><span class="grow clip">${error.message}</span>
        <span class="dim">attempt ${error.attempt}</span><${Ago} ms=${error.at_ms} /></summary>
      <${Stored} value=${error.message} label="Message" />
      ${error.traceback && html`<${Stored} value=${error.traceback} label="Traceback" />`}
      ${error.worker && html`<p class="dim">on ${error.worker}</p>`}
    </details>`)}
  <//>`;
}

function Stack({ job, path, me }) {
  const [text, setText] = useState("");
  if (job.state !== "running" || !me.can("GET /jobs/{id}/stack")) return null;
  const read = async () => {
    try {
      const found = await get(`${path}/stack`);
      setText(found.text);
    } catch (problem) {
      toast(problem.detail, { level: "bad" });
    }
  };
  return html`<${Section} title="Stack" aside=${html`<${Button} kind="quiet" onClick=${read}>Read it now<//>`}>
    ${text ? html`<${Stored} value=${text} label="Stack" />` : html`<p class="dim">Its worker can tell where it is.</p>`}
  <//>`;
}

function Actions({ job, path, me, reload }) {
  const state = job.state;
  const once = async (question, work, done) => {
    const values = question ? await confirm(question) : {};
    if (values && (await attempt(() => work(values), done))) reload();
  };
  const cancel = () => {
    const text = state === "running" ? "Its worker stops it at its next heartbeat." : "It ends as cancelled.";
    return once({ title: "Cancel the job?", text, verb: "Cancel the job", danger: true }, () => post(`${path}/cancel`), changed("Cancelled", "It had ended already"));
  };
  const retry = () => once(null, () => post(`${path}/retry`), "It is ready again");
  const priority = () => {
    const fields = [{ name: "priority", label: "Priority", options: PRIORITIES, value: "high" }];
    return once({ title: "Change the priority", fields, verb: "Change" }, (values) => post(`${path}/priority`, values), "The priority is changed");
  };
  const reschedule = () =>
    once({ title: "Reschedule", fields: [DELAY], verb: "Reschedule" }, ({ delay }) => post(`${path}/reschedule`, { delay: Number(delay) }), "It is rescheduled");
  const move = async () => {
    const outcome = await actOn(`id:${job.id}`, ACTIONS.find((action) => action.type === "Move")).catch((problem) => toast(problem.detail, { level: "bad" }));
    if (outcome) reload();
  };
  const remove = () => once({ title: "Delete the job?", text: "It is gone for good.", verb: "Delete", danger: true }, () => ask("DELETE", path), changed("Deleted", "It was gone already"));
  const shown = [
    [["dead", "scheduled"].includes(state), "POST /jobs/{id}/retry", "Retry now", retry, "primary"],
    [WAITING.includes(state), "POST /jobs/{id}/reschedule", "Reschedule", reschedule],
    [ALIVE.includes(state), "POST /jobs/{id}/priority", "Priority", priority],
    [WAITING.includes(state), "POST /jobs/act", "Move", move],
    [[...WAITING, "running"].includes(state), "POST /jobs/{id}/cancel", "Cancel", cancel, "danger"],
    [state === "dead", "DELETE /jobs/{id}", "Delete", remove, "danger"],
  ];
  return shown.map(([fits, route, name, press, kind]) => fits && me.can(route) && html`<${Button} key=${name} kind=${kind} onClick=${press}>${name}<//>`);
}
