"use strict";
// The life of a game on the page: filters make the list; the address (#iteration=5&game=12) says which game of it is
// open; its story is built as elements whose text is set as text, whatever a model wrote.
(() => {
  const { about, games } = JSON.parse(document.getElementById("game-data").textContent);
  const at = (id) => document.getElementById(id);
  if (!at("reader")) return;
  const MARKS = ["\u25b2", "\u25cf", "\u25a0", "\u25c6"]; // beside the teams' colours
  const STRONG = 0.66; // of the scale: from here on a token is underlined, too

  const make = (tag, name, ...content) => {
    const element = document.createElement(tag);
    if (name) element.className = name;
    element.append(...content); // strings become text
    return element;
  };
  const signed = (value) => value === null || value === undefined ? "not recorded" : (value < 0 ? "\u2212" : "+") + Math.abs(value).toFixed(2);
  const teamed = (role, text) => {
    const element = make("span", "team", text), team = Math.max(about.teams.indexOf(about.teamOf[role]), 0);
    element.dataset.team = team % 4;
    element.dataset.mark = MARKS[team % 4];
    return element;
  };
  const key = (game) => `#iteration=${game.iteration}&game=${game.game}`;

  // Tints share one scale: the 95th percentile of all sizes.
  const numbers = (turn) => turn.pieces ? turn.advantages || [] : [turn.advantage ?? turn.mean];
  const sizes = games.flatMap((game) => game.turns.filter((turn) => turn.kept).flatMap(numbers)).filter((value) => value).map(Math.abs).sort((a, b) => a - b);
  const scale = sizes.length ? sizes[Math.floor(0.95 * (sizes.length - 1))] : 1;

  // ---------------------------------------------------------------- which games
  const by = { iteration: at("by-iteration"), winner: at("by-winner"), role: at("by-role"), text: at("by-text"), filtered: at("by-filtered") };
  const offer = (select, values) => select.append(...[...new Set(values)].map((value) => new Option(value, value)));
  offer(by.iteration, games.map((game) => game.iteration));
  offer(by.winner, games.map((game) => game.winner).sort());
  offer(by.role, games.flatMap((game) => game.roles).sort());

  const texts = new WeakMap(); // game -> [role, text in lower case] of everything said and told
  const textsOf = (game) => {
    if (!texts.has(game)) {
      const said = game.turns.map((turn) => [game.roles[turn.seat], turn.pieces ? `${turn.pieces.join("")}\n${turn.text}` : turn.text]);
      const told = game.story.filter((piece) => typeof piece === "object").map((piece) => [null, piece.text]);
      texts.set(game, [...said, ...told].map(([role, text]) => [role, text, text.toLowerCase()]));
    }
    return texts.get(game);
  };
  const wanted = () => by.text.value.trim().toLowerCase();
  // With a role, only what that role says is searched.
  const hit = (game) => textsOf(game).find(([role, , text]) => (!by.role.value || role === by.role.value) && text.includes(wanted()));
  const fits = (game) =>
    (by.iteration.value === "" || String(game.iteration) === by.iteration.value) &&
    (by.winner.value === "" || game.winner === by.winner.value) &&
    (by.role.value === "" || game.roles.includes(by.role.value)) &&
    (!by.filtered.checked || game.turns.some((turn) => !turn.kept)) &&
    (!wanted() || hit(game) !== undefined);

  let listed = games, open = null;
  const list = () => {
    listed = games.filter(fits);
    at("count").textContent = `${listed.length} of ${games.length} ${games.length === 1 ? "game" : "games"}`;
    at("list").replaceChildren(...listed.map((game) => {
      const link = make("a", "", make("span", "", `Iteration ${game.iteration}, game ${game.game}`), make("small", "", game.winner));
      if (wanted()) {
        const text = hit(game)[1].replace(/\s+/g, " "), start = Math.max(text.toLowerCase().indexOf(wanted()) - 24, 0);
        const line = make("bdi", "said", (start ? "\u2026" : "") + text.slice(start, start + 80));
        link.append(line);
      }
      link.href = key(game);
      return make("li", "", link);
    }));
    mark();
  };
  const mark = () => {
    for (const link of at("list").querySelectorAll("a")) {
      if (open && link.getAttribute("href") === key(open)) {
        link.setAttribute("aria-current", "true");
        const box = link.closest("nav"), top = link.offsetTop - box.offsetTop;
        if (top < box.scrollTop || top + link.offsetHeight > box.scrollTop + box.clientHeight) box.scrollTop = top - box.clientHeight / 2;
      } else link.removeAttribute("aria-current");
    }
    const place = listed.indexOf(open);
    at("previous").disabled = place === 0 || !listed.length;
    at("next").disabled = place === listed.length - 1;
  };

  // ---------------------------------------------------------------- one game
  const tint = (element, value) => {
    const strength = value ? Math.min(Math.abs(value) / scale, 1) : 0;
    element.style.setProperty("--strength", strength.toFixed(3));
    if (strength) element.classList.add(value > 0 ? "good" : "bad");
    if (strength > STRONG) element.classList.add("strong-sign");
  };
  const spoken = (turn, number) => {
    const box = make("div", "said-text");
    box.dir = "auto";
    const parts = turn.pieces || [turn.text || " "], control = new Set(turn.control);
    parts.forEach((text, place) => {
      const token = make("span", "token", text);
      token.dataset.turn = number;
      token.dataset.piece = place;
      token.tabIndex = place ? -1 : 0;
      if (control.has(place)) token.classList.add("control");
      tint(token, turn.kept ? numbers(turn)[place] : 0);
      box.append(token);
    });
    const whole = turn.pieces ? parts.filter((_, place) => !control.has(place)).join("").trim() : turn.text;
    if (whole !== turn.text.trim()) {
      const heard = make("bdi", "heard-as", turn.text ? `taken as: ${turn.text}` : "taken as: nothing");
      box.append(heard);
    }
    return box;
  };
  const turnLine = (game, number) => {
    const turn = game.turns[number], role = game.roles[turn.seat];
    const who = make("div", "who", teamed(role, game.names[turn.seat]), " ", make("small", "", role), " ", make("small", "", turn.question));
    const marks = make("div", "marks");
    if (!turn.kept) marks.append(make("span", "left-out", "filtered"));
    const others = turn.heard.filter((name) => name !== game.names[turn.seat]);
    if (others.length && !turn.heard.includes("public")) marks.append(make("span", "", `to ${others.join(", ")} alone`));
    if (turn.advantage !== null) marks.append(make("span", "", signed(turn.advantage)));
    const line = make("li", "turn", who, spoken(turn, number), marks);
    if (by.role.value && role !== by.role.value) line.classList.add("aside");
    return line;
  };
  const withNames = (game, text) => {
    const parts = [], names = [...game.names].sort((a, b) => b.length - a.length).map((name) => name.replace(/[^\p{L}\p{N}]/gu, "\\$&"));
    let end = 0;
    for (const found of text.matchAll(new RegExp(`(?<![\\p{L}\\p{N}])(?:${names.join("|")})(?![\\p{L}\\p{N}])`, "gu"))) {
      parts.push(text.slice(end, found.index), teamed(game.roles[game.names.indexOf(found[0])], found[0]));
      end = found.index + found[0].length;
    }
    return [...parts, text.slice(end)];
  };
  const toldLine = (game, piece) => {
    const line = make("li", piece.to.length ? "told secret" : "told");
    line.dir = "auto";
    if (piece.to.length) {
      line.append(make("span", "to", "to "));
      piece.to.forEach((name, place) => line.append(place ? ", " : "", teamed(game.roles[game.names.indexOf(name)], name)));
      line.append(make("span", "to", " alone: "));
    }
    line.append(...withNames(game, piece.text));
    return line;
  };
  const show = (game) => {
    open = game;
    hideTip();
    at("game-title").textContent = `Iteration ${game.iteration}, game ${game.game}: ${game.winner}${game.rewards ? " won" : ""}`;
    at("roster").replaceChildren(...game.names.map((name, seat) => {
      const reward = game.rewards ? ` ${game.rewards[seat] > 0 ? "+" : ""}${game.rewards[seat]}`.replace("-", "\u2212") : "";
      return make("li", "", teamed(game.roles[seat], name), ` ${game.roles[seat]}${reward}`);
    }));
    at("story").replaceChildren(...game.story.map((piece) => typeof piece === "number" ? turnLine(game, piece) : toldLine(game, piece)));
    highlight();
    mark();
  };
  const highlight = () => {
    if (!globalThis.Highlight) return;
    CSS.highlights.delete("found");
    if (!wanted() || !open) return;
    const found = new Highlight();
    for (const box of at("story").querySelectorAll(".said-text, .told")) {
      const nodes = [], walker = document.createTreeWalker(box, NodeFilter.SHOW_TEXT);
      let text = "";
      while (walker.nextNode()) { nodes.push([text.length, walker.currentNode]); text += walker.currentNode.data; }
      const place = (offset) => { const [start, node] = nodes.findLast(([first]) => first <= offset); return [node, Math.min(offset - start, node.length)]; };
      const lower = text.toLowerCase();
      if (lower.length !== text.length) continue; // letters whose small form is longer: places would not agree
      for (let start = lower.indexOf(wanted()); start >= 0; start = lower.indexOf(wanted(), start + wanted().length)) {
        const range = new Range();
        range.setStart(...place(start));
        range.setEnd(...place(start + wanted().length));
        found.add(range);
      }
    }
    CSS.highlights.set("found", found);
  };

  // ---------------------------------------------------------------- what a token says of itself
  const tip = at("tip");
  const hideTip = () => {
    tip.hidden = true;
    document.querySelector(".token.open")?.classList.remove("open");
    document.querySelector("[aria-describedby=tip]")?.removeAttribute("aria-describedby");
  };
  const showTip = (token) => {
    hideTip();
    const turn = open.turns[token.dataset.turn], place = Number(token.dataset.piece);
    const rows = [];
    if (turn.pieces) {
      const logProb = turn.log_probs[place], count = turn.counts ? turn.counts[place] : 1;
      if (count > 1) rows.push(["tokens", String(count)]);
      rows.push(["probability", logProb === null ? "not recorded" : `${(100 * Math.exp(logProb)).toPrecision(3)}%`]);
      rows.push(["log-probability", logProb === null ? "not recorded" : logProb.toFixed(3).replace("-", "\u2212")]);
      rows.push(["value before it", signed(turn.values[place])]);
      rows.push(["token advantage", turn.kept ? signed(turn.advantages ? turn.advantages[place] : null) : "filtered: trains nothing"]);
    } else rows.push(["mean of its tokens", signed(turn.mean)]);
    rows.push(["turn advantage", signed(turn.advantage)]);
    const words = make("p", "", turn.pieces ? JSON.stringify(turn.pieces[place]).slice(1, -1) : "the whole turn");
    words.dir = "auto";
    const table = make("dl", "");
    for (const [name, value] of rows) table.append(make("dt", "", name), make("dd", "", value));
    tip.replaceChildren(words, table);
    tip.hidden = false;
    token.classList.add("open");
    token.setAttribute("aria-describedby", "tip");
    placeTip();
  };
  const placeTip = () => {
    const token = document.querySelector(".token.open");
    if (!token) return;
    const box = token.getClientRects()[0] ?? token.getBoundingClientRect();
    tip.style.visibility = box.bottom < 0 || box.top > innerHeight ? "hidden" : "";
    const below = box.bottom + 8 + tip.offsetHeight < innerHeight;
    tip.style.left = `${Math.max(8, Math.min(box.left, document.documentElement.clientWidth - tip.offsetWidth - 8))}px`;
    tip.style.top = `${below ? box.bottom + 8 : Math.max(8, box.top - 8 - tip.offsetHeight)}px`;
  };
  const tokenAt = (event) => event.target.closest?.(".token");
  for (const name of ["pointerover", "focusin", "click"])
    at("story").addEventListener(name, (event) => tokenAt(event) ? showTip(tokenAt(event)) : name === "pointerover" && hideTip());
  at("story").addEventListener("pointerleave", (event) => event.pointerType === "mouse" && hideTip());
  at("story").addEventListener("focusout", hideTip);
  for (const name of ["scroll", "resize"]) addEventListener(name, placeTip, { passive: true });

  // ---------------------------------------------------------------- keys, filters, address
  const go = (steps) => {
    const place = listed.indexOf(open), next = listed[place < 0 ? 0 : place + steps];
    if (!next) return;
    show(next); // now, not when the address has changed: the next key may come first
    location.replace(key(next));
  };
  at("next").addEventListener("click", () => go(1));
  at("previous").addEventListener("click", () => go(-1));
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest?.("input, select, textarea")) return;
    if (event.key === "Escape") return hideTip();
    const step = { j: 1, k: -1 }[event.key.toLowerCase()];
    if (step) return go(step);
    const side = { ArrowRight: 1, ArrowLeft: -1 }[event.key], token = tokenAt(event);
    if (!side || !token) return;
    event.preventDefault();
    const tokens = [...at("story").querySelectorAll(".token")];
    tokens[tokens.indexOf(token) + side]?.focus();
  });
  at("filters").addEventListener("submit", (event) => event.preventDefault());
  const filter = () => {
    list();
    if (listed.length && !listed.includes(open)) location.replace(key(listed[0]));
    else if (open) show(open);
  };
  for (const name of ["input", "change"]) at("filters").addEventListener(name, filter);
  const follow = (first) => {
    const asked = new URLSearchParams(location.hash.slice(1));
    if (!asked.has("game")) return first && games.length ? show(games[games.length - 1]) : undefined;
    const found = games.find((game) => key(game) === key({ iteration: asked.get("iteration"), game: asked.get("game") }));
    if (!found) {
      at("count").textContent = `Game ${asked.get("game")} of iteration ${asked.get("iteration")} is not on this page; make it with more --games.`;
      if (first && games.length) show(games[games.length - 1]);
      at("reader").scrollIntoView({ block: "start", behavior: "instant" });
      return;
    }
    if (found !== open) show(found);
    const top = at("game").getBoundingClientRect().top;
    if (first || top < 0 || top > innerHeight * 0.75) at("game").scrollIntoView({ block: "start", behavior: "instant" });
  };
  addEventListener("hashchange", () => follow(false));
  list();
  follow(true);
})();
