// What this file does: it follows the stream of the view, shows search and questions where they can be answered, and
// nothing else. Without it the page is whole, and stands still.
"use strict";
(() => {
  const body = document.body, view = document.getElementById("view");
  const live = document.getElementById("live"), pause = document.getElementById("pause");
  let address = body.dataset.stream, source = null, paused = false, again = 0;
  let sought = false, tell = null; // how many a search has found is told once

  const say = (text) => { if (live.textContent !== text) live.textContent = text; };

  // show puts what has changed of a view in place, part by part, and leaves focus and scrolling where they are.
  const show = (html) => {
    const next = document.createElement("template");
    next.innerHTML = html;
    const parts = [...next.content.children];
    const ids = new Set(parts.map((p) => p.id));
    for (const old of [...view.children]) if (!ids.has(old.id)) old.remove();
    let before = null;
    for (const part of parts) {
      const old = document.getElementById(part.id);
      if (!old) {
        before ? before.after(part) : view.prepend(part);
        before = part;
        continue;
      }
      if (old.outerHTML !== part.outerHTML) replace(old, part);
      before = document.getElementById(part.id);
    }
  };

  const replace = (old, part) => {
    const selection = document.getSelection();
    if (!selection.isCollapsed && old.contains(selection.anchorNode)) return; // somebody is reading it
    const focused = old.contains(document.activeElement) ? document.activeElement : null;
    const wide = [...old.querySelectorAll(".wide")].map((e) => e.scrollLeft);
    old.replaceWith(part);
    part.querySelectorAll(".wide").forEach((e, i) => { e.scrollLeft = wide[i] || 0; });
    if (focused) alike(part, focused)?.focus({ preventScroll: true });
  };

  // alike is what stands in part for e, wherever that is now: rows move, and Enter must not open another's page.
  const alike = (part, e) => {
    const sign = (e) => [e.tagName, e.getAttribute("href"), e.getAttribute("aria-labelledby")].join();
    const row = (e) => [...e.closest("tr")?.cells ?? []].filter((c) => !c.dataset.value && !["state", "use", "full"].includes(c.dataset.field))
      .map((c) => c.textContent).join();
    const same = [...part.querySelectorAll("a, [tabindex]")].filter((x) => sign(x) === sign(e));
    return same.find((x) => row(x) === row(e)) ?? same[0] ?? part.querySelector(".wide");
  };

  const open = () => {
    clearTimeout(again);
    source?.close();
    if (!address || paused) return;
    source = new EventSource(address);
    source.addEventListener("hello", (e) => {
      if (e.data !== body.dataset.version) location.reload(); // another program answers now
      say("Live");
    });
    source.addEventListener("view", (e) => {
      if (paused) return;
      show(e.data);
      if (sought) tell();
      sought = false;
    });
    source.onerror = () => {
      say("Not live: trying again");
      if (source.readyState === EventSource.CLOSED) again = setTimeout(open, 3000);
    };
  };

  pause.addEventListener("click", () => {
    paused = !paused;
    pause.setAttribute("aria-pressed", String(paused));
    if (paused) { source?.close(); clearTimeout(again); say("Paused"); } else open();
  });

  const search = document.getElementById("search");
  if (search) {
    document.getElementById("searching").hidden = false;
    const found = document.getElementById("found");
    let timer = 0;
    tell = () => { found.textContent = [...view.querySelectorAll(".note")].map((n) => n.firstChild.textContent).join(" "); };
    const find = () => {
      const here = new URL(location.href), next = new URL(address, location.href);
      for (const u of [here, next]) {
        u.searchParams.delete("from");
        search.value ? u.searchParams.set("q", search.value) : u.searchParams.delete("q");
      }
      history.replaceState(null, "", here);
      const json = document.getElementById("json"); // what says what was searched for before
      json.href = json.getAttribute("href").split("?")[0] + here.search;
      document.getElementById("searched")?.remove();
      address = next.href;
      sought = true;
      if (paused) location.reload(); else open();
    };
    search.addEventListener("input", () => { clearTimeout(timer); timer = setTimeout(find, 250); });
    search.addEventListener("keydown", (e) => { if (e.key === "Enter") { clearTimeout(timer); find(); } });
  }

  const ask = document.getElementById("ask");
  if (ask) {
    ask.hidden = false;
    const field = (name) => document.getElementById("ask-" + name);
    const answer = document.getElementById("answer");
    const call = () => { // arguments as they were typed: numbers and repeated names are not to be made others
      const typed = field("priority").value.trim(), priority = Number(typed);
      const head = JSON.stringify({ tool: field("tool").value, tenant: field("tenant").value, priority: Number.isFinite(priority) ? priority : typed });
      return head.slice(0, -1) + ',"args":' + (field("args").value.trim() || "{}") + "}";
    };
    let asked = 0;
    const go = async () => {
      const question = ++asked; // of two that are under way the later one's answer stands
      try {
        const r = await fetch("explain", {
          method: "POST", headers: { "Content-Type": "application/json" },
          body: call(),
        });
        const text = await r.text();
        if (question !== asked) return;
        if (r.ok) answer.innerHTML = text; else answer.textContent = text;
      } catch (e) {
        if (question === asked) answer.textContent = "There is no answer: " + e.message;
      }
    };
    document.getElementById("ask-go").addEventListener("click", go);
    ask.addEventListener("keydown", (e) => { if (e.key === "Enter" && e.target.tagName === "INPUT") go(); });
  }

  addEventListener("pagehide", () => source?.close());
  addEventListener("pageshow", (e) => { if (e.persisted) open(); });
  if (address) { pause.hidden = false; open(); }
})();
