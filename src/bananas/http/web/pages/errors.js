// Errors: dead and retrying jobs by what went wrong and where; a group is a query, so all of it can be retried.
import { html } from "../base.js";
import { withQuery } from "../api.js";
import { ACTIONS, actOn } from "../bulk.js";
import { toast } from "../dialog.js";
import { number, plural, shortId } from "../format.js";
import { bySearch, usePoll } from "../live.js";
import { Ago, Button, Empty, Head, Loading, ProblemBox } from "../parts.js";
import { quotedText, stateOf, withState } from "../qualifiers.js";
import { go, jobLink, link, search } from "../router.js";
import { SearchBox } from "../searchbox.js";

/** The jobs of a group, as a query. */
export const groupQuery = (group, states = "dead,retrying") =>
  `state:${states} error_type:${quotedText(group.type)} frame:${quotedText(group.frame)}`;

const RETRY_NOW = { type: "Reschedule", verb: "Retry now", text: "They wait for their next attempt: it becomes due at once.", made: () => ({ delay: 0 }) };
const named = (type) => ACTIONS.find((action) => action.type === type);
const LONGEST = 2000; // characters: what the API takes as a query

export function ErrorsPage({ params, me }) {
  const { q = "" } = params;
  const { data, problem, reload } = usePoll(withQuery("/errors", { q }), bySearch);
  const groups = data?.groups ?? [];
  return html`<${Head} title="Errors"><span class="dim">${data && `scanned ${number(data.scanned)} of ${number(data.total)}`}</span><//>
    <${SearchBox} value=${q} onSearch=${(query) => (query === q ? reload() : go(link("errors", "", { q: query })))} known=${{}} label="Search errors" />
    <div class="filters"><span class="choice" role="group" aria-label="State">
      ${["dead", "retrying"].map((state) => html`<button type="button" key=${state} aria-pressed=${stateOf(q) === state}
        onClick=${() => go(link("errors", "", { q: withState(q, state) }))}>${state}</button>`)}
    </span></div>
    <${ProblemBox} problem=${problem} />
    ${!data && !problem && html`<${Loading} />`}
    ${data && !groups.length && html`<${Empty} title="No failures.">Dead and retrying jobs would be here, by what went wrong.<//>`}
    ${groups.map((group) => html`<${Group} key=${`${group.type}\n${group.frame}`} group=${group} within=${q} me=${me} reload=${reload} />`)}`;
}

function Group({ group, within, me, reload }) {
  const narrowed = (states) => `${groupQuery(group, states)} ${within}`.trim();
  const act = async (states, action) => {
    try {
      await actOn(narrowed(states), action);
    } catch (problem) {
      toast(problem.detail || String(problem), { level: "bad" });
    }
    reload();
  };
  const usable = narrowed().length <= LONGEST && me.can("POST /jobs/act");
  return html`<section class="card group" aria-label=${group.type}>
    <div class="group-head">
      <a data-row class="error-type grow" href=${search(narrowed())}>${group.type}</a>
      <span class="figure">${group.dead > 0 && html`<b class="bad">${number(group.dead)} dead</b>`} ${group.retrying > 0 && html`<b>${number(group.retrying)} retrying</b>`}</span>
    </div>
    <p class="message">${group.message.slice(0, 500)}</p>
    <p class="dim mono frame">${group.frame || "no traceback"}</p>
    <div class="group-foot">
      <span class="dim">first <${Ago} ms=${group.first_ms} /> · last <${Ago} ms=${group.last_ms} /> · ${group.tasks.slice(0, 5).join(", ")}</span>
      <span class="samples">${group.samples.slice(0, 3).map((id) => html`<a key=${id} class="mono dim" href=${jobLink(id)} title=${id}>${shortId(id)}</a>`)}</span>
      <span class="head-tools">
        ${usable && group.retrying > 0 && html`<${Button} onClick=${() => act("retrying", RETRY_NOW)}>Retry ${number(group.retrying)} now<//>`}
        ${usable && group.dead > 0 && html`<${Button} onClick=${() => act("dead", named("Retry"))}>Retry all ${plural(group.dead, "dead job")}<//>`}
        ${usable && group.dead > 0 && me.can("DELETE /jobs/{id}") && html`<${Button} kind="quiet danger" onClick=${() => act("dead", named("Delete"))}>Delete them<//>`}
      </span>
    </div>
  </section>`;
}
