// Where the API asks for a token.
import { html, useState } from "./base.js";

export function Login({ onToken, wrong }) {
  const [value, set] = useState("");
  const submit = (event) => {
    event.preventDefault();
    if (value.trim()) onToken(value.trim());
  };
  return html`<main class="alone">
    <form class="login card" onSubmit=${submit}>
      <h1><span class="logo" aria-hidden="true"></span>Bananas</h1>
      <p>This API asks for a token. It is kept in this tab alone, until you sign out or close it.</p>
      ${wrong && html`<p class="problem" role="alert">The token is not valid here.</p>`}
      <input type="text" hidden autocomplete="username" value="bananas" readonly /><label class="field" for="token"><span>Token</span>
        <input id="token" type="password" autocomplete="current-password" required autofocus value=${value} onInput=${(event) => set(event.target.value)} />
      </label>
      <button type="submit" class="button primary">Sign in</button>
      <p class="dim">Where another program serves this page, sign in there, and load it again.</p>
    </form>
  </main>`;
}
