// The trail: who did what to many jobs at once, and what it came to.
import { html } from "../base.js";
import { number } from "../format.js";
import { usePoll } from "../live.js";
import { Ago, Empty, Head, Loading, ProblemBox, Table, useTick } from "../parts.js";
import { search } from "../router.js";

const COLUMNS = [["When", "num"], ["Who"], ["What"], ["Query", "fill"], ["Done", "num"], ["Selected", "num"]];

export function TrailPage() {
  useTick();
  const { data: deeds, problem } = usePoll("/trail?limit=200", 5000);
  return html`<${Head} title="Trail"><span class="dim">the last 1,000 acts are kept</span><//>
    <${ProblemBox} problem=${problem} />
    ${!deeds && !problem && html`<${Loading} />`}
    ${deeds?.length === 0 && html`<${Empty} title="Nobody has acted on many jobs yet.">What is done to all that a search matches is written down here.<//>`}
    ${deeds?.length > 0 && html`<div class="card"><${Table} label="Trail" columns=${COLUMNS}>
      ${deeds.map((deed) => html`<tr>
        <td class="num"><${Ago} ms=${deed.at_ms} /></td><td>${deed.who}</td><td>${deed.action}</td>
        <td class="fill clip mono"><a data-row href=${search(deed.query)} title=${deed.query}>${deed.query}</a></td>
        <td class="num">${number(deed.done)}</td><td class=${`num ${deed.done < deed.selected ? "" : "dim"}`}>${number(deed.selected)}</td>
      </tr>`)}
    <//></div>`}`;
}
