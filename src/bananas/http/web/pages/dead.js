// Dead letters of one queue, the newest first: retry or delete one, or all.
import { html } from "../base.js";
import { ask, post, withQuery } from "../api.js";
import { attempt, changed, confirm, jobs } from "../dialog.js";
import { number, plural } from "../format.js";
import { usePoll } from "../live.js";
import { Button, Empty, Head, Loading, ProblemBox } from "../parts.js";
import { link } from "../router.js";
import { JobTable } from "./jobs.js";

const PAGE = 50;

export function DeadPage({ params, part, me }) {
  const { data: queues, problem: noQueues } = usePoll("/queues", 5000);
  const withDead = (queues ?? []).filter((queue) => queue.dead > 0);
  const name = part ?? [...withDead].sort((a, b) => b.dead - a.dead)[0]?.name;
  const offset = Number(params.offset) || 0;
  const path = name ? `/queues/${encodeURIComponent(name)}/dead` : "";
  const { data, problem, reload } = usePoll(path && withQuery(path, { limit: PAGE, offset: offset || "" }), 5000);
  const all = { path, name, count: data?.count ?? 0, me, reload };
  return html`<${Head} title="Dead letters">${data?.count > 0 && html`<${All} ...${all} />`}<//>
    <${ProblemBox} problem=${problem ?? noQueues} />
    ${queues && html`<div class="filters"><nav class="choice" aria-label="Queues">${[...new Set([...withDead.map((queue) => queue.name), ...(part ? [part] : [])])].map(
      (each) => html`<a key=${each} href=${link("dead", each)} aria-current=${each === name ? "true" : null}>${each}${" "}<span class="dim">${number(queues.find((queue) => queue.name === each)?.dead ?? 0)}</span></a>`,
    )}</nav></div>`}
    ${!data && !problem && path && html`<${Loading} />`}
    ${queues && ((!path && html`<${Empty} title="No job is dead.">A job that fails for good would be here.<//>`) || (data?.count === 0 && html`<${Empty} title="No job of this queue is dead." />`))}
    ${data?.jobs.length > 0 && html`<div class="card"><${JobTable} jobs=${data.jobs} label="Dead letters" acts=${(job) => html`<${One} job=${job} path=${path} me=${me} reload=${reload} />`} /></div>`}
    ${data && html`<nav class="pager" aria-label="Pages of dead letters">
      ${offset > 0 ? html`<a class="button" href=${link("dead", name, { offset: Math.max(0, offset - PAGE) || "" })}>Newer</a>` : html`<span></span>`}
      ${offset + PAGE < data.count && html`<a class="button" href=${link("dead", name, { offset: offset + PAGE })}>Older</a>`}
    </nav>`}`;
}

function All({ path, name, count, me, reload }) {
  const after = async (question, work, done) => {
    if (await confirm(question)) await attempt(work, done);
    reload();
  };
  const text = html`All ${plural(count, "dead job")} of <b>${name}</b> become ready again, with fresh attempts, but for those whose unique key another job holds.`;
  const replay = () => after({ title: `Retry ${plural(count, "job")}?`, text, verb: "Retry all" }, () => post(`${path}/replay`), jobs("are ready again"));
  const gone = html`All ${plural(count, "dead job")} of <b>${name}</b> are deleted for good.`;
  const purge = () =>
    after({ title: `Delete ${plural(count, "job")}?`, text: gone, verb: "Delete all", danger: true, word: name }, () => ask("DELETE", path), jobs("deleted"));
  return html`
    ${me.can("POST /queues/{queue}/dead/replay") && html`<${Button} onClick=${replay}>Retry all<//>`}
    ${me.can("DELETE /queues/{queue}/dead") && html`<${Button} kind="danger" onClick=${purge}>Delete all<//>`}`;
}

function One({ job, path, me, reload }) {
  const name = job.id;
  const replay = async () => {
    await attempt(() => post(`${path}/${encodeURIComponent(name)}/replay`), "It is ready again");
    reload();
  };
  const remove = async () => {
    if (await confirm({ title: "Delete the job?", text: "It is gone for good.", verb: "Delete", danger: true }))
      await attempt(() => ask("DELETE", `${path}/${encodeURIComponent(name)}`), changed("Deleted", "It was gone already"));
    reload();
  };
  return html`
    ${me.can("POST /queues/{queue}/dead/{id}/replay") && html`<${Button} kind="quiet" onClick=${replay} aria-label=${`Retry ${name}`}>Retry<//>`}
    ${me.can("DELETE /queues/{queue}/dead/{id}") && html`<${Button} kind="quiet danger" onClick=${remove} aria-label=${`Delete ${name}`}>Delete<//>`}`;
}
