// Dark or light: as the system has it, or as this browser was told.
const KEY = "bananas.theme";
const ORDER = ["system", "light", "dark"];

export const theme = () => (ORDER.includes(localStorage.getItem(KEY)) ? localStorage.getItem(KEY) : "system");

export function isDark() {
  const chosen = theme();
  return chosen === "system" ? matchMedia("(prefers-color-scheme: dark)").matches : chosen === "dark";
}

export function applyTheme() {
  document.documentElement.dataset.theme = isDark() ? "dark" : "light";
  dispatchEvent(new Event("themechange"));
}

export function nextTheme() {
  const next = ORDER[(ORDER.indexOf(theme()) + 1) % ORDER.length];
  localStorage.setItem(KEY, next);
  applyTheme();
  return next;
}

matchMedia("(prefers-color-scheme: dark)").addEventListener("change", applyTheme);
