// Where one is: #/page/part?name=value. The part behind the # never reaches a server or its log, whatever one searches for.
import { useEffect, useState } from "./base.js";

export function here() {
  const [path, query = ""] = location.hash.replace(/^#\/?/, "").split(/\?(.*)/s);
  const [page, ...parts] = path.split("/").map(unescaped);
  return { page: page || "overview", parts, params: Object.fromEntries(new URLSearchParams(query)) };
}

export function link(page, part, params = {}) {
  const query = new URLSearchParams(Object.entries(params).filter(([, value]) => value !== "" && value !== undefined)).toString();
  return `#/${page}${part ? `/${encodeURIComponent(part)}` : ""}${query ? `?${query}` : ""}`;
}

export const jobLink = (id) => link("jobs", id);
export const search = (q) => link("jobs", "", { q });

export function go(target, { replace = false } = {}) {
  if (!replace) location.hash = target;
  else {
    history.replaceState(null, "", target);
    dispatchEvent(new HashChangeEvent("hashchange"));
  }
}

export function useRoute() {
  const [route, set] = useState(here);
  useEffect(() => {
    const move = () => set(here());
    addEventListener("hashchange", move);
    return () => removeEventListener("hashchange", move);
  }, []);
  return route;
}

function unescaped(part) {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}
