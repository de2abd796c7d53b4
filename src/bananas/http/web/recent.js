// A sample of the jobs that ended lately, of all queues.
import { html } from "./base.js";
import { shortId } from "./format.js";
import { usePoll } from "./live.js";
import { Ago, Empty, Section, Span, State, Table } from "./parts.js";
import { jobLink, link } from "./router.js";

const COLUMNS = [["Outcome"], ["Task"], ["Queue", "wide"], ["Ran", "num"], ["Ended", "num"], ["Id", "wide"]];

export function Recent({ me }) {
  const { data } = usePoll(me.can("GET /recent") ? "/recent?limit=10" : "", 5000);
  if (!data) return null;
  return html`<${Section} title="Recently finished" aside="a sample">
    ${!data.length && html`<${Empty} title="Nothing ended lately.">Some of the jobs that end would be here, with how they ended.<//>`}
    ${data.length > 0 && html`<${Table} label="Jobs that ended lately" columns=${COLUMNS}>
      ${data.map((job) => html`<tr key=${`${job.id} ${job.finished_ms}`}>
        <td><${State} state=${job.outcome === "other" ? "ended" : job.outcome} /></td>
        <td><a data-row href=${jobLink(job.id)}>${job.task}</a></td>
        <td class="wide"><a href=${link("queues", job.queue)}>${job.queue}</a></td>
        <td class="num"><${Span} ms=${job.run_ms} /></td>
        <td class="num"><${Ago} ms=${job.finished_ms} /></td>
        <td class="wide mono dim">${shortId(job.id)}</td>
      </tr>`)}
    <//>`}
    <p class="dim note">Finished jobs are in no queue. This is a sample: the first of each second of each worker. What a job returned is found by its id, while its result is kept.</p>
  <//>`;
}
