// Jobs: one search box, what it found, and what can be done to all of it. The search is in the URL; so is the page of it.
import { html, useEffect, useMemo, useRef } from "../base.js";
import { withQuery } from "../api.js";
import { BulkBar } from "../bulk.js";
import { call, number, priorityName, shortId, span } from "../format.js";
import { bySearch, usePoll } from "../live.js";
import { Ago, Empty, Head, Loading, ProblemBox, State, Table } from "../parts.js";
import { idIn, stateOf, withState } from "../qualifiers.js";
import { go, jobLink, link } from "../router.js";
import { SearchBox } from "../searchbox.js";

const PAGE = 50;
const STATES = ["running", "ready", "scheduled", "retrying", "dead"];
const COLUMNS = [["State"], ["Task"], ["Details", "fill"], ["Queue", "wide"], ["Priority", "wide"], ["Tries", "num wide"], ["When", "num"], ["Id", "wide"]];

function useKnown(jobs) {
  const { data: queues } = usePoll("/queues", 30_000);
  const { data: workers } = usePoll("/workers", 30_000);
  return useMemo(() => {
    const unique = (list) => [...new Set(list)].filter(Boolean).sort();
    return {
      queue: unique((queues ?? []).map((queue) => queue.name)),
      task: unique([...(workers ?? []).flatMap((worker) => worker.tasks), ...jobs.map((job) => job.task)]),
      worker: unique((workers ?? []).map((worker) => worker.host)),
      error: unique(jobs.flatMap((job) => job.errors.map((error) => error.type))),
      error_type: unique(jobs.flatMap((job) => job.errors.map((error) => error.type))),
      args: unique(jobs.flatMap((job) => Object.keys(job.kwargs ?? {}))),
      tag: unique(jobs.flatMap((job) => job.tags ?? [])),
    };
  }, [queues, workers, jobs]);
}

const NONE = [];

export function JobsPage({ params, me }) {
  const { q = "", after = "", newest = "", focus = "" } = params;
  const last = useRef();
  const { data, problem, reload } = usePoll(withQuery("/jobs", { q, cursor: after, newest, limit: PAGE }), bySearch);
  useEffect(() => {
    if (data) last.current = data;
  }, [data]);
  const shown = data ?? (problem ? undefined : last.current);
  const known = useKnown(shown?.jobs ?? NONE);
  const search = (query) => {
    if (idIn(query)) go(jobLink(idIn(query)));
    else if (query === q) reload();
    else go(link("jobs", "", { q: query, newest }));
  };
  return html`<${Head} title="Jobs" />
    <${SearchBox} value=${q} onSearch=${search} known=${known} focus=${focus} />
    <div class="filters">
      <span class="choice" role="group" aria-label="State">
        ${STATES.map((state) => html`<button type="button" key=${state} aria-pressed=${stateOf(q) === state} onClick=${() => search(withState(q, state))}>${state}</button>`)}
      </span>
      <span class="choice" role="group" aria-label="Order">
        ${[["", "in order"], ["1", "newest first"]].map(
          ([value, text]) => html`<button type="button" key=${text} aria-pressed=${newest === value} onClick=${() => go(link("jobs", "", { q, newest: value }))}>${text}</button>`,
        )}
      </span>
      <span class="dim scanned" role="status">${shown && `scanned ${number(shown.scanned)} of ${number(shown.total)}`}</span>
    </div>
    <${BulkBar} query=${q} me=${me} onDone=${reload} />
    <${ProblemBox} problem=${problem} />
    ${!shown && !problem && html`<${Loading} />`}
    ${shown && html`<${Found} page=${shown} q=${q} busy=${!data} />
      <${Pager} page=${shown} params=${{ q, newest }} after=${after} />`}`;
}

function Found({ page, q, busy }) {
  if (!page.jobs.length) {
    const more = page.cursor ? "Nothing among those that were looked at: go on with the next page." : q ? "No waiting, running or dead job matches." : "No job waits, runs or is dead.";
    return html`<${Empty} title=${more}>Finished jobs are in no queue: open one by its id.<//>`;
  }
  return html`<div class=${`card ${busy ? "busy" : ""}`}><${JobTable} jobs=${page.jobs} /></div>`;
}

export function JobTable({ jobs, label = "Jobs", acts }) {
  return html`<${Table} label=${label} columns=${acts ? [...COLUMNS, ["Actions", "acts"]] : COLUMNS}>
    ${jobs.map((job) => html`<tr key=${job.id}>
      <td><${State} state=${job.state === "scheduled" && job.attempts ? "retrying" : job.state} /></td>
      <td class="task"><a data-row href=${jobLink(job.id)}>${job.task ?? "?"}</a>${(job.tags ?? []).map((tag) => html`<span class="tag">${tag}</span>`)}</td>
      <td class="fill clip mono">${lastError(job) ?? html`<span title=${call(job).slice(0, 1000)}>${call(job).slice(0, 200)}</span>`}</td>
      <td class="wide">${job.queue}</td>
      <td class="wide dim">${priorityName(job.priority)}</td>
      <td class="num wide">${job.attempts || html`<span class="dim">0</span>`}${job.crashes > 0 && html`<span class="bad" title="crashes"> +${job.crashes}</span>`}</td>
      <td class="num"><${When} job=${job} /></td>
      <td class="wide mono dim" title=${job.id}>${shortId(job.id)}</td>
      ${acts && html`<td class="acts">${acts(job)}</td>`}
    </tr>`)}
  <//>`;
}

function lastError(job) {
  const error = job.errors.at(-1);
  if (!error || !["dead", "scheduled"].includes(job.state)) return null;
  return html`<span title=${`${error.type}: ${error.message}`.slice(0, 1000)}><span class="error-type">${error.type}</span> ${error.message.slice(0, 200)}</span>`;
}

function When({ job }) {
  if (job.state === "ready") return html`<span title="waited since it is ready">${span(job.waited_ms)}</span>`;
  if (job.state === "scheduled") return html`<${Ago} ms=${job.due_ms} />`;
  if (job.state === "dead") return html`<${Ago} ms=${job.died_ms} />`;
  return html`<${Ago} ms=${job.started_ms ?? job.born_ms} />`;
}

function Pager({ page, params, after }) {
  if (!after && !page.cursor) return null;
  return html`<nav class="pager" aria-label="Pages of the search">
    ${after ? html`<a class="button" href=${link("jobs", "", params)}>First page</a>` : html`<span></span>`}
    ${page.cursor && html`<a class="button" href=${link("jobs", "", { ...params, after: page.cursor })}>Next page</a>`}
  </nav>`;
}
