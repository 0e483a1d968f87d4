"use strict";
(() => {
  const root = document.documentElement;
  const $ = (id) => document.getElementById(id);
  const cards = [...document.querySelectorAll(".card")];
  const entries = new Map([...document.querySelectorAll("nav a")].map((a) => [a.hash.slice(1), a]));
  const remember = (key, value) => { try { localStorage.setItem(key, value); } catch { /* a page opened from disk may not */ } };
  const recall = (key) => { try { return localStorage.getItem(key); } catch { return null; } };

  // Theme: the system's, until the switch says otherwise.
  const themes = ["auto", "light", "dark"];
  const setTheme = (theme) => {
    if (theme === "auto") delete root.dataset.theme; else root.dataset.theme = theme;
    $("theme").textContent = { auto: "Auto", light: "Light", dark: "Dark" }[theme];
    $("theme").setAttribute("aria-label", `Theme: ${theme}`);
    $("theme").dataset.now = theme;
  };
  setTheme(themes.includes(recall("monoscope-theme")) ? recall("monoscope-theme") : "auto");
  $("theme").addEventListener("click", () => {
    const next = themes[(themes.indexOf($("theme").dataset.now) + 1) % themes.length];
    setTheme(next);
    remember("monoscope-theme", next);
  });

  // Lines: every context unfolded, or one at a click.
  const toggleLines = () => {
    const on = root.classList.toggle("lines");
    $("lines").setAttribute("aria-pressed", String(on));
  };
  $("lines").addEventListener("click", toggleLines);
  $("features").addEventListener("click", (event) => {
    const row = event.target.closest(".rows li");
    if (row && !String(getSelection())) row.classList.toggle("open");
  });

  // Filter by index or token.
  const shown = () => cards.filter((card) => !card.hidden);
  const filter = () => {
    const query = $("filter").value.trim().toLowerCase();
    for (const card of cards) {
      const index = card.id.slice(1);
      card.hidden = query !== "" && !(/^#?\d+$/.test(query) ? index.startsWith(query.replace("#", "")) : card.dataset.find.includes(query));
      entries.get(card.id)?.parentElement.toggleAttribute("hidden", card.hidden);
    }
    const n = shown().length;
    $("count").textContent = query ? `${n} of ${cards.length}` : `${cards.length} shown`;
    $("none").hidden = n > 0;
  };
  $("filter").addEventListener("input", filter);
  filter();

  // Keys: j and k walk the features, / filters, l unfolds, Escape clears; off in text fields, and off at will.
  let keys = recall("monoscope-keys") !== "off";
  const showKeys = () => $("keys").setAttribute("aria-pressed", String(keys));
  showKeys();
  $("keys").addEventListener("click", () => { keys = !keys; remember("monoscope-keys", keys ? "on" : "off"); showKeys(); });
  const step = (by) => {
    const list = shown();
    if (!list.length) return;
    let at = list.indexOf(document.activeElement?.closest?.(".card"));
    if (at < 0) {
      const first = list.findIndex((card) => card.getBoundingClientRect().bottom > 80);
      at = by > 0 ? (first < 0 ? list.length : first) - 1 : (first < 0 ? list.length : first);
    }
    const next = list[Math.min(Math.max(at + by, 0), list.length - 1)];
    next.focus({ preventScroll: true });
    next.scrollIntoView({ block: "start" });
  };
  addEventListener("keydown", (event) => {
    if (event.key === "Escape") { $("filter").value = ""; filter(); $("filter").blur(); hide(); return; }
    if (!keys || event.ctrlKey || event.metaKey || event.altKey || event.target.matches("input, textarea, select")) return;
    if (event.key === "j") step(1);
    else if (event.key === "k") step(-1);
    else if (event.key === "l") toggleLines();
    else if (event.key === "/") { event.preventDefault(); $("filter").focus(); }
  });

  // The feature in view, in the list.
  const mark = (id) => {
    for (const [key, entry] of entries) entry.toggleAttribute("aria-current", key === id);
    const entry = entries.get(id);
    if (entry?.offsetParent) {
      const box = entry.closest("nav");
      if (entry.offsetTop < box.scrollTop || entry.offsetTop > box.scrollTop + box.clientHeight - 40) box.scrollTop = entry.offsetTop - box.clientHeight / 2;
    }
  };
  const watcher = new IntersectionObserver((seen) => {
    const visible = seen.find((item) => item.isIntersecting);
    if (visible) mark(visible.target.id);
  }, { rootMargin: "-15% 0px -70% 0px" });
  cards.forEach((card) => watcher.observe(card));

  // One tooltip for all tokens; the token's value is drawn on the feature's histogram.
  const tip = $("tip");
  let marker = null;
  function hide() { tip.hidden = true; if (marker) marker.toggleAttribute("hidden", true); marker = null; }
  const show = (token) => {
    const value = Number(token.dataset.v);
    const name = document.createElement("code");
    name.textContent = token.textContent;
    tip.replaceChildren(name, ` ${token.dataset.v} at position ${token.dataset.p}`);
    tip.hidden = false;
    const box = token.getBoundingClientRect();
    const left = Math.min(Math.max(box.left + box.width / 2 - tip.offsetWidth / 2, 8), innerWidth - tip.offsetWidth - 8);
    const above = box.top - tip.offsetHeight - 8;
    tip.style.left = `${left}px`;
    tip.style.top = `${above > 4 ? above : box.bottom + 8}px`;
    const hist = token.closest(".card")?.querySelector(".hist");
    if (hist) {
      const [low, high] = [Number(hist.dataset.low), Number(hist.dataset.high)];
      if (marker) marker.toggleAttribute("hidden", true);
      marker = hist.querySelector(".mark");
      marker.setAttribute("transform", `translate(${280 * Math.min(Math.max((value - low) / (high - low), 0), 1)} 0)`);
      marker.toggleAttribute("hidden", false);
    }
  };
  document.addEventListener("pointerover", (event) => {
    const token = event.target.closest?.(".t[data-v]");
    if (token) show(token); else hide();
  });
  addEventListener("scroll", hide, { passive: true });
})();
