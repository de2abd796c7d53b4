// The keyboard: go to pages, move among rows, search, and the list of all that.
import { html, useEffect, useRef } from "./base.js";
import { go, link } from "./router.js";

export const PAGES = [
  ["overview", "Overview", "o"],
  ["jobs", "Jobs", "j"],
  ["errors", "Errors", "e"],
  ["queues", "Queues", "q"],
  ["workers", "Workers", "w"],
  ["cron", "Cron", "c"],
  ["dead", "Dead letters", "d"],
  ["trail", "Trail", "t"],
];
const WAIT_MS = 1200;

/** Listen; `onHelp` shows the list. */
export function useKeys(onHelp) {
  const last = useRef({ key: "", at: 0 });
  useEffect(() => {
    const press = (event) => {
      if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
      if (event.target.closest("input, textarea, select")) {
        if (event.key === "Escape") event.target.blur();
        return;
      }
      const went = last.current.key === "g" && event.timeStamp - last.current.at < WAIT_MS;
      last.current = { key: event.key, at: event.timeStamp };
      const page = went && PAGES.find(([, , key]) => key === event.key);
      if (page) go(link(page[0]));
      else if (!act(event, onHelp)) return;
      event.preventDefault();
    };
    document.addEventListener("keydown", press);
    return () => document.removeEventListener("keydown", press);
  }, [onHelp]);
}

function act(event, onHelp) {
  if (event.key === "?") onHelp();
  else if (event.key === "/") toSearch();
  else if (event.key === "j" || event.key === "k") return step(event.key === "j" ? 1 : -1);
  else return false;
  return true;
}

function toSearch() {
  const box = document.getElementById("search");
  if (box) box.focus();
  else go(link("jobs", "", { focus: "1" }));
}

/** Focus the next or the previous row of a list; enter opens what has the focus. */
function step(by) {
  const rows = [...document.querySelectorAll("a[data-row]")];
  if (!rows.length) return false;
  const at = rows.findIndex((row) => row === document.activeElement);
  const next = at === -1 ? (by > 0 ? 0 : rows.length - 1) : Math.max(0, Math.min(rows.length - 1, at + by));
  rows[next].focus();
  rows[next].scrollIntoView({ block: "nearest" });
  return true;
}

export function Help({ onClose }) {
  const box = useRef();
  useEffect(() => box.current.showModal(), []);
  const rows = [
    ["/", "search jobs"],
    ["j k", "next and previous row"],
    ["enter", "open the row"],
    ["esc", "leave a field, close this"],
    ...PAGES.map(([, name, key]) => [`g ${key}`, name]),
  ];
  return html`<dialog ref=${box} class="help" aria-labelledby="help-title" onClose=${onClose} onClick=${(event) => event.target === box.current && box.current.close()}>
    <h2 id="help-title">Keys</h2>
    <dl>${rows.map(([keys, text]) => html`<div><dt>${keys.split(" ").map((key) => html`<kbd>${key}</kbd>`)}</dt><dd>${text}</dd></div>`)}</dl>
    <div class="dialog-buttons"><button type="button" class="button" onClick=${() => box.current.close()}>Close</button></div>
  </dialog>`;
}
