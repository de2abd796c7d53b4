// The search box: one line, typed qualifiers, completion by arrows and tab.
import { html, useEffect, useRef, useState } from "./base.js";
import { suggest } from "./qualifiers.js";

export function SearchBox({ value, onSearch, known, focus, label = "Search jobs" }) {
  const [text, setText] = useState(value);
  const [at, setAt] = useState(-1);
  const [open, setOpen] = useState(false);
  const input = useRef();
  useEffect(() => setText(value), [value]);
  useEffect(() => {
    if (focus) input.current.focus();
  }, [focus]);
  const caret = input.current?.selectionStart ?? text.length;
  const items = open ? suggest(text, Math.min(caret, text.length), known) : [];

  const take = (item) => {
    const tail = item.more ? "" : " ";
    const next = text.slice(0, item.start) + item.insert + tail + text.slice(item.end).replace(/^\s/, item.more ? "$&" : "");
    const place = item.start + item.insert.length + tail.length;
    setText(next);
    setAt(-1);
    input.current.value = next; // at once: who types on does not wait for a frame
    input.current.focus();
    input.current.setSelectionRange(place, place);
  };
  const search = (event) => {
    event?.preventDefault();
    setOpen(false);
    onSearch(text.trim());
  };
  const press = (event) => {
    if ((event.key === "ArrowDown" || event.key === "ArrowUp") && items.length) {
      setAt((at + (event.key === "ArrowDown" ? 1 : items.length + (at === -1 ? 0 : -1))) % items.length);
    } else if ((event.key === "Tab" || event.key === "Enter") && at >= 0 && items[at]) take(items[at]);
    else if (event.key === "Tab" && !event.shiftKey && items.length && text.trim() && open) take(items[0]);
    else if (event.key === "Escape" && open) setOpen(false);
    else return;
    event.preventDefault();
    event.stopPropagation();
  };
  const change = (event) => {
    setText(event.target.value);
    setOpen(true);
    setAt(-1);
  };
  return html`<form class="search" role="search" onSubmit=${search}>
    <input id="search" ref=${input} type="text" value=${text} placeholder=${`${label}: task:send_email age>5m …   ( / )`}
      role="combobox" aria-label=${label} aria-expanded=${items.length > 0} aria-controls="suggestions" aria-autocomplete="list"
      aria-activedescendant=${at >= 0 ? `suggestion-${at}` : null} autocomplete="off" autocapitalize="off" spellcheck="false" maxlength="2000"
      onInput=${change} onKeyDown=${press} onFocus=${() => setOpen(true)} onBlur=${() => setTimeout(() => setOpen(false), 120)} />
    <button type="submit" class="button primary">Search</button>
    <ul id="suggestions" role="listbox" aria-label="Completions" hidden=${!items.length}>
      ${items.map((item, index) => html`<li key=${item.insert} id=${`suggestion-${index}`} role="option" aria-selected=${index === at}
        onMouseDown=${(event) => (event.preventDefault(), take(item))}><code>${item.insert}</code><span class="dim">${item.about}</span></li>`)}
    </ul>
  </form>`;
}
