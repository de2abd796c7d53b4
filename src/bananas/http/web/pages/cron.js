// Cron: what ticks when, what its last tick came to; run it now, pause it.
import { html } from "../base.js";
import { post } from "../api.js";
import { attempt, changed, confirm } from "../dialog.js";
import { number } from "../format.js";
import { usePoll } from "../live.js";
import { Ago, Button, Empty, Head, Loading, ProblemBox, Table, useTick } from "../parts.js";
import { jobLink, link } from "../router.js";

export function CronPage({ me }) {
  useTick();
  const { data: entries, problem, reload } = usePoll("/cron", 5000);
  const acts = ["run", "pause", "resume"].some((act) => me.can(`POST /cron/{queue}/{name}/${act}`));
  const columns = [["Entry"], ["Schedule"], ["Next", "num"], ["Last", "num"], ["Missed", "num wide"], ["Queue", "wide"], ["Announced", "num wide"], ...(acts ? [["Actions", "acts"]] : [])];
  return html`<${Head} title="Cron" />
    <${ProblemBox} problem=${problem} />
    ${!entries && !problem && html`<${Loading} />`}
    ${entries?.length === 0 && html`<${Empty} title="No cron entry.">They are declared in code: <code>app.cron(...)</code><//>`}
    ${entries?.length > 0 && html`<div class="card"><${Table} label="Cron entries" columns=${columns}>
      ${entries.map((entry) => html`<tr key=${entry.name}>
        <td><b>${entry.name}</b>${entry.paused && html`<span class="tag warn">paused</span>`}${!entry.announced && html`<span class="tag bad" title="No worker announced it within the last minute: it does not fire">no worker</span>`}</td>
        <td class="mono">${entry.schedule} <span class="dim">${entry.timezone !== "UTC" && !entry.schedule.startsWith("every") ? entry.timezone : ""}</span></td>
        <td class="num">${entry.paused ? "–" : html`<${Ago} ms=${entry.next_ms} />`}${entry.asked_ms && html`<span class="tag" title="An operator asked for a run">asked</span>`}</td>
        <td class="num">${entry.last_id ? html`<a href=${jobLink(entry.last_id)}><${Ago} ms=${entry.last_ms} /></a>` : html`<${Ago} ms=${entry.last_ms} />`}</td>
        <td class="num wide">${entry.missed_ticks === undefined ? html`<span class="dim">${entry.missed}</span>` : html`${number(entry.missed_ticks)} <span class="dim">${entry.missed}</span>`}</td>
        <td class="wide"><a href=${link("queues", entry.queue)}>${entry.queue}</a></td>
        <td class="num wide"><${Ago} ms=${entry.announced_ms} /></td>
        ${acts && html`<td class="acts"><${Acts} entry=${entry} me=${me} reload=${reload} /></td>`}
      </tr>`)}
    <//></div>`}`;
}

function Acts({ entry, me, reload }) {
  const path = (act) => `/cron/${encodeURIComponent(entry.queue)}/${encodeURIComponent(entry.name)}/${act}`;
  const may = (act) => me.can(`POST /cron/{queue}/{name}/${act}`);
  const act = async (what, done) => {
    await attempt(() => post(path(what)), done);
    reload();
  };
  const run = async () => {
    const text = "A job of it is submitted. Its next tick stays where it is.";
    if (await confirm({ title: `Run ${entry.name} now?`, text, verb: "Run now" })) await act("run", (answer) => (answer.id ? `${entry.name} was submitted` : `${entry.name} will be run by the next worker`));
  };
  return html`
    ${may("run") && html`<${Button} onClick=${run} aria-label=${`Run ${entry.name} now`}>Run now<//>`}
    ${!entry.paused && may("pause") && html`<${Button} onClick=${() => act("pause", changed(`${entry.name} is paused`, `${entry.name} was paused already`))} aria-label=${`Pause ${entry.name}`}>Pause<//>`}
    ${entry.paused && may("resume") && html`<${Button} onClick=${() => act("resume", changed(`${entry.name} goes on`, `${entry.name} was not paused`))} aria-label=${`Resume ${entry.name}`}>Resume<//>`}`;
}
