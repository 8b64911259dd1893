'use strict';
// The dashboard: shows what the node that served it gathers from all nodes over /v1/cluster.
//
// Whatever comes from a node is put in as text, never as HTML.
(() => {
  // Limits. Times in milliseconds.
  const WINDOW_MS = 300000;
  const BUCKET_MS = 2000;
  const FIGURES_MAX = 330;
  const EVENTS_MAX = 600;
  const ROWS_MAX = 200;
  const SILENCE_MS_MAX = 5000;
  const BACKOFF_MS = [500, 15000];
  const NEWS_PAUSE_MS = 3000;
  const FAULT_PATIENCE_MS = 8000;

  const GLYPHS = { healthy: '✓', degraded: '▲', failed: '✕', down: '✕', waiting: '○' };
  // What an event is called, its glyph, its tone, and whether it is something detected or something done.
  const KINDS = {
    started: ['Started', '●', 'plain', 'good'],
    stopped: ['Stopped', '■', 'plain', 'good'],
    degraded: ['Degraded', '▲', 'warn', 'bad'],
    panicked: ['Panicked', '✕', 'bad', 'bad'],
    hung: ['Hangs', '✕', 'bad', 'bad'],
    failed: ['Failed', '✕', 'bad', 'bad'],
    stepped_aside: ['Gave leadership away', '★', 'plain', 'good'],
    escalated: ['Escalated', '✕', 'bad', 'bad'],
    restarted: ['Restarted', '↻', 'good', 'good'],
    recovered: ['Recovered', '✓', 'good', 'good'],
    rebuilt: ['Rebuilt', '↻', 'good', 'good'],
    quarantined: ['Quarantined', '✕', 'bad', 'bad'],
    read_only: ['Read only', '▲', 'warn', 'bad'],
    peer_unreachable: ['Peer lost', '▲', 'warn', 'bad'],
    peer_back: ['Peer back', '✓', 'good', 'good'],
    leader_changed: ['Leader changed', '★', 'plain', 'good'],
    fault_injected: ['Fault injected', '⚡', 'fault', 'bad'],
    fault_cleared: ['Fault cleared', '⚡', 'fault', 'good'],
    unreachable: ['Does not answer', '✕', 'bad', 'bad'],
    reachable: ['Answers again', '✓', 'good', 'good'],
  };
  const MARKED = new Set(['panicked', 'hung', 'failed', 'unreachable', 'fault_injected']);
  const QUIET = new Set(['started', 'stopped']);

  // What may be broken: a heading, and for each button its name and the body of POST /v1/faults.
  const FAULTS = [
    ['Actors', [
      ['Panic the store', { kind: 'actor_panic', component: 'store' }],
      ['Panic the dispatcher', { kind: 'actor_panic', component: 'dispatcher' }],
      ['Hang the dispatcher', { kind: 'actor_hang', component: 'dispatcher', duration: '5s' }],
      ['Hang the Raft door', { kind: 'actor_hang', component: 'raft', duration: '5s' }],
    ]],
    ['Disk', [
      ['Slow fsync, 10 s', { kind: 'fsync_delay', delay: '500ms', duration: '10s' }],
      ['Fail the next fsync', { kind: 'fsync_fail', duration: '10s' }],
      ['Fill the disk, 15 s', { kind: 'disk_full', duration: '15s' }],
      ['Flip bits in the data', { kind: 'flip_bits', file: 'rocksdb' }],
    ]],
    ['Network', [
      ['Cut off, 10 s', { kind: 'peer_drop', duration: '10s' }],
      ['Slow network, 15 s', { kind: 'peer_delay', delay: '200ms', duration: '15s' }],
    ]],
  ];

  const $ = (id) => document.getElementById(id);
  const own = document.body.dataset.node;
  const state = {
    nodes: new Map(),
    figures: new Map(),
    events: new Map(),
    clockAhead: 0,
    frames: 0,
  };

  // ---- Small tools ----

  const now = () => Date.now() + state.clockAhead;
  const count = (n) => Math.round(n).toLocaleString('en-US');
  const plural = (n, noun) => `${count(n)} ${noun}${n === 1 ? '' : 's'}`;

  function span(ms) {
    const s = Math.max(0, Math.floor(ms / 1000));
    if (s < 60) return `${s} s`;
    if (s < 3600) return `${Math.floor(s / 60)} min ${s % 60} s`;
    if (s < 86400) return `${Math.floor(s / 3600)} h ${Math.floor((s % 3600) / 60)} min`;
    return `${Math.floor(s / 86400)} d ${Math.floor((s % 86400) / 3600)} h`;
  }

  function bytes(n) {
    const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB'];
    let i = 0;
    for (; n >= 1024 && i < units.length - 1; i++) n /= 1024;
    return `${n >= 100 || i === 0 ? Math.round(n) : n.toFixed(1)} ${units[i]}`;
  }

  function millis(ms) {
    if (ms === null || ms === undefined) return '–';
    if (ms >= 1000) return `${(ms / 1000).toFixed(1)} s`;
    return `${ms >= 10 ? Math.round(ms) : ms.toFixed(ms >= 1 ? 1 : 2)} ms`;
  }

  function clock(ms) {
    const d = new Date(ms);
    const two = (n) => String(n).padStart(2, '0');
    return `${two(d.getHours())}:${two(d.getMinutes())}:${two(d.getSeconds())}.${String(d.getMilliseconds()).padStart(3, '0')}`;
  }

  function list(names) {
    return names.length < 2 ? names.join('') : `${names.slice(0, -1).join(', ')} and ${names[names.length - 1]}`;
  }

  function make(tag, attributes = {}, ...children) {
    return fill(document.createElement(tag), attributes, children);
  }

  function draw(tag, attributes = {}, ...children) {
    return fill(document.createElementNS('http://www.w3.org/2000/svg', tag), attributes, children);
  }

  function fill(element, attributes, children) {
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    element.append(...children);
    return element;
  }

  // Unchanged text is left alone, so that a screen reader is not told of it.
  function say(element, text) {
    if (element.textContent !== text) element.textContent = text;
  }

  function set(element, name, value) {
    if (element.getAttribute(name) !== String(value)) element.setAttribute(name, value);
  }

  // Makes the children of `parent` those of `items`, in order, keeping the elements of keys that stay.
  function sync(parent, items, keyOf, create, update) {
    const old = new Map([...parent.children].map((child) => [child.dataset.key, child]));
    let place = parent.firstElementChild;
    for (const item of items) {
      const key = String(keyOf(item));
      let child = old.get(key);
      if (child) old.delete(key);
      else {
        child = create(item);
        child.dataset.key = key;
      }
      if (child === place) place = place.nextElementSibling;
      else parent.insertBefore(child, place);
      if (update) update(child, item);
    }
    for (const child of old.values()) child.remove();
  }

  // ---- What the nodes tell ----

  function take(frame) {
    state.clockAhead = frame.time_ms - Date.now();
    const seen = new Set();
    for (const node of frame.nodes) {
      seen.add(node.name);
      const before = state.nodes.get(node.name);
      noteReach(before, node, frame.time_ms);
      state.nodes.set(node.name, { ...node, lastStatus: node.status || (before && before.lastStatus) });
      takeFigures(node);
      for (const event of node.events) keep({ ...event, id: `${node.name}/${node.started_ms}/${event.seq}`, node: node.name });
    }
    for (const name of state.nodes.keys()) {
      if (!seen.has(name)) {
        state.nodes.delete(name);
        state.figures.delete(name);
      }
    }
    state.frames += 1;
  }

  // No node can tell of its own silence: that is what the gathering node saw.
  function noteReach(before, node, time_ms) {
    const by = `seen by ${own}`;
    if (!node.reachable) {
      keep({ id: `${node.name}/down/${node.unreachable_since_ms}`, node: node.name, time_ms: node.unreachable_since_ms,
        component: 'node', what: 'unreachable', detail: `${by}: ${reasonOf(node)}` });
    } else if (before && !before.reachable) {
      const away = span(time_ms - before.unreachable_since_ms);
      keep({ id: `${node.name}/up/${before.unreachable_since_ms}`, node: node.name, time_ms,
        component: 'node', what: 'reachable', detail: `${by}, after ${away}` });
    }
  }

  // What the operating system calls it by number helps nobody here.
  const reasonOf = (node) => (node.reason || '').replace(/ \(os error \d+\)$/, '');

  function takeFigures(node) {
    const kept = state.figures.get(node.name) || [];
    const last = kept.length ? kept[kept.length - 1].time_ms : 0;
    kept.push(...node.figures.filter((figure) => figure.time_ms > last));
    state.figures.set(node.name, kept.slice(-FIGURES_MAX));
  }

  function keep(event) {
    if (state.events.has(event.id)) return;
    state.events.set(event.id, event);
    if (state.frames > 0 && !QUIET.has(event.what)) news.push(event);
    if (state.events.size > EVENTS_MAX) {
      const oldest = [...state.events.values()].reduce((a, b) => (a.time_ms < b.time_ms ? a : b));
      state.events.delete(oldest.id);
    }
  }

  const statuses = () => [...state.nodes.values()].filter((node) => node.status).map((node) => node.status);

  // The leader of the latest term that somebody believes in and that believes in itself.
  function leader() {
    const leading = statuses().filter((status) => status.node.state === 'leader');
    return leading.sort((a, b) => b.cluster.term - a.cluster.term)[0] || null;
  }

  // What the picture and the cards show of a node.
  function view(node, head) {
    const status = node.status;
    const member = head && head.cluster.members.find((other) => other.name === node.name);
    const isLeader = Boolean(head && head.node.name === node.name);
    const role = !status ? 'down' : isLeader ? 'leader' : status.node.state === 'leader' ? 'old leader' : status.node.state;
    const health = !node.reachable ? 'down' : status.health.state;
    const down = node.reachable ? null : now() - node.unreachable_since_ms;
    const behind = member && !isLeader ? member.lag_entries : null;
    const isHeard = isLeader || !member || member.reachable;
    return { node, status, role, health, isLeader, isHeard, behind, down, name: node.name };
  }

  function views() {
    const head = leader();
    return [...state.nodes.values()]
      .sort((a, b) => a.name.localeCompare(b.name, 'en', { numeric: true }))
      .map((node) => view(node, head));
  }

  function ill(v) {
    return v.status ? v.status.health.components.filter((part) => part.state !== 'healthy') : [];
  }

  // ---- The verdict ----

  function judge(all) {
    const head = leader();
    const down = all.filter((v) => v.health === 'down').map((v) => v.name);
    const weak = all.filter((v) => v.health === 'failed' || v.health === 'degraded').map((v) => v.name);
    const more = head
      ? `${head.node.name} leads term ${head.cluster.term}; ${plural(head.store.keys_estimate, 'key')}, revision ${count(head.store.revision)}.`
      : 'Writes wait until a majority has elected one; stale reads go on.';
    if (!head) return { state: 'failed', title: 'Nobody leads the cluster', more };
    if (down.length) {
      const title = `${list(down)} ${down.length === 1 ? 'does' : 'do'} not answer`;
      return { state: 'degraded', title, more: `${all.length - down.length} of ${all.length} nodes carry on. ${more}` };
    }
    if (weak.length) return { state: 'degraded', title: `${list(weak)} ${weak.length === 1 ? 'is' : 'are'} not well`, more };
    const title = all.length === 1 ? 'The node is healthy' : `All ${all.length} nodes are healthy`;
    return { state: 'healthy', title, more };
  }

  function showVerdict(all) {
    const verdict = judge(all);
    set($('verdict-box'), 'data-state', verdict.state);
    say($('verdict-sign'), GLYPHS[verdict.state]);
    say($('verdict'), verdict.title);
    say($('verdict-more'), verdict.more);
    document.title = `${verdict.state === 'healthy' ? '' : `${GLYPHS[verdict.state]} `}${verdict.title} · VaultDB`;
  }

  // ---- The picture ----

  const BOX = { width: 124, height: 66 };
  const RING = { x: 220, y: 172, rx: 156, ry: 132 };

  function place(i, n) {
    if (n === 1) return { x: RING.x, y: RING.y };
    const angle = (i / n) * 2 * Math.PI - Math.PI / 2;
    return { x: RING.x + RING.rx * Math.cos(angle), y: RING.y + RING.ry * Math.sin(angle) };
  }

  function lagWords(v) {
    if (v.health === 'down') return `for ${span(v.down)}`;
    if (v.isLeader) return `applied ${count(v.status.raft.applied)}`;
    if (v.behind === null || v.behind === undefined) return v.isHeard ? 'lag unknown' : 'cut off';
    return v.isHeard ? `lag ${count(v.behind)}` : `cut off, lag ${count(v.behind)}`;
  }

  function showPicture(all) {
    const svg = $('picture');
    if (!svg.firstElementChild) {
      svg.append(draw('g', { class: 'links' }), draw('text', { class: 'term', x: RING.x, y: RING.y + 4 }), draw('g', { class: 'boxes' }));
    }
    const [links, term, boxes] = svg.children;
    const placed = all.map((v, i) => ({ ...v, ...place(i, all.length) }));
    const head = placed.find((v) => v.isLeader);
    const others = head ? placed.filter((v) => v !== head) : [];
    sync(links, others, (v) => v.name, () => draw('line'), (line, v) => {
      const isCut = v.health === 'down' || !v.isHeard;
      set(line, 'data-state', isCut ? 'cut' : v.behind > 1000 ? 'lagging' : 'whole');
      for (const [name, value] of [['x1', head.x], ['y1', head.y], ['x2', v.x], ['y2', v.y]]) set(line, name, value.toFixed(1));
    });
    say(term, head ? `term ${head.status.cluster.term}` : 'no leader');
    sync(boxes, placed, (v) => v.name, createBox, updateBox);
    say($('picture-words'), placed.map((v) => `${v.name}: ${v.role}, ${v.health}, ${lagWords(v)}`).join('. '));
  }

  function createBox() {
    const { width, height } = BOX;
    return draw('g', { class: 'node' },
      draw('rect', { x: -width / 2, y: -height / 2, width, height, rx: 9 }),
      draw('text', { class: 'name', y: -12 }), draw('text', { y: 5 }), draw('text', { y: 22 }),
      draw('circle', { cx: width / 2 - 6, cy: -height / 2 + 6, r: 9 }),
      draw('text', { class: 'badge', x: width / 2 - 6, y: -height / 2 + 10 }));
  }

  function updateBox(box, v) {
    set(box, 'transform', `translate(${v.x.toFixed(1)} ${v.y.toFixed(1)})`);
    set(box, 'data-role', v.role);
    set(box, 'data-health', v.health);
    const [, name, role, lag, , badge] = box.children;
    say(name, v.name.length > 15 ? `${v.name.slice(0, 14)}…` : v.name);
    say(role, v.role);
    say(lag, lagWords(v));
    say(badge, GLYPHS[v.health]);
  }

  // ---- Charts ----

  // All nodes in steps of time. A node's samples within a step are averaged, then nodes are added up.
  function steps() {
    const end = Math.floor((now() - 2500) / BUCKET_MS);
    const n = WINDOW_MS / BUCKET_MS;
    const all = Array.from({ length: n }, (_, i) => ({ time_ms: (end - n + 1 + i) * BUCKET_MS, known: false, requests: 0, writes: 0, errors: 0, p50: null, p99: null, weight: 0 }));
    for (const figures of state.figures.values()) addNode(all, figures, end - n + 1);
    return all;
  }

  function addNode(all, figures, first) {
    const groups = new Map();
    for (const figure of figures) {
      const i = Math.floor(figure.time_ms / BUCKET_MS) - first;
      if (i < 0 || i >= all.length) continue;
      if (!groups.has(i)) groups.set(i, []);
      groups.get(i).push(figure);
    }
    for (const [i, group] of groups) {
      const step = all[i];
      step.known = true;
      for (const name of ['requests', 'writes', 'errors']) {
        step[name] += group.reduce((sum, figure) => sum + figure[name], 0) / group.length;
      }
      for (const { requests, p50_ms, p99_ms } of group) {
        if (p50_ms === null) continue;
        const weight = Math.max(1, requests);
        step.p50 = ((step.p50 || 0) * step.weight + p50_ms * weight) / (step.weight + weight);
        step.weight += weight;
        step.p99 = Math.max(step.p99 || 0, p99_ms);
      }
    }
  }

  // A number at or above `max` that makes for round ticks.
  function niceMax(max) {
    if (max <= 4) return 4;
    const power = 10 ** Math.floor(Math.log10(max));
    return [1, 2, 4, 5, 10].map((factor) => factor * power).find((nice) => nice >= max);
  }

  function linear(max) {
    const top = niceMax(max);
    return { at: (value) => value / top, ticks: [0, top / 2, top].map((value) => [value, count(value)]) };
  }

  function logarithmic(max) {
    const low = 0.1;
    const top = [10, 100, 1000, 10000, 100000].find((limit) => limit >= max) || 100000;
    const at = (value) => Math.log(Math.max(value, low) / low) / Math.log(top / low);
    const ticks = [0.1, 1, 10, 100, 1000, 10000].filter((tick) => tick <= top);
    return { at, ticks: ticks.map((value) => [value, value >= 1000 ? `${value / 1000} s` : `${value} ms`]) };
  }

  function path(points, x, y) {
    let text = '';
    let isOpen = false;
    points.forEach((value, i) => {
      if (value === null) isOpen = false;
      else {
        text += `${isOpen ? 'L' : 'M'}${x(i).toFixed(1)} ${y(value).toFixed(1)}`;
        isOpen = true;
      }
    });
    return text;
  }

  function showChart(svg, all, curves, scale) {
    const width = svg.clientWidth || 400;
    const height = svg.clientHeight || 136;
    const edge = { left: 48, right: 8, top: 8, bottom: 20 };
    const x = (i) => edge.left + (i / (all.length - 1)) * (width - edge.left - edge.right);
    const y = (value) => height - edge.bottom - scale.at(value) * (height - edge.top - edge.bottom);
    const parts = [];
    for (const [value, label] of scale.ticks) {
      parts.push(draw('line', { class: 'grid', x1: edge.left, x2: width - edge.right, y1: y(value), y2: y(value) }));
      parts.push(draw('text', { x: edge.left - 8, y: y(value) + 4, 'text-anchor': 'end' }, label));
    }
    for (const [part, label, anchor] of [[0, '5 min ago', 'start'], [0.5, '2.5 min', 'middle'], [1, 'now', 'end']]) {
      parts.push(draw('text', { x: x(part * (all.length - 1)), y: height - 4, 'text-anchor': anchor }, label));
    }
    const begin = all[0].time_ms;
    for (const event of state.events.values()) {
      const i = (event.time_ms - begin) / BUCKET_MS;
      if (MARKED.has(event.what) && i >= 0 && i < all.length) {
        parts.push(draw('line', { class: 'mark', x1: x(i), x2: x(i), y1: edge.top, y2: height - edge.bottom }));
      }
    }
    for (const { points, look, hasArea } of curves) {
      const line = path(points, x, y);
      const first = points.findIndex((value) => value !== null);
      if (hasArea && first >= 0) {
        const base = height - edge.bottom;
        parts.push(draw('path', { class: 'area', d: `${line}L${x(points.length - 1)} ${base}L${x(first)} ${base}Z` }));
      }
      parts.push(draw('path', { class: `curve ${look}`, d: line }));
    }
    set(svg, 'viewBox', `0 0 ${width} ${height}`);
    svg.replaceChildren(...parts);
  }

  function showLegend(element, entries) {
    sync(element, entries, (entry) => entry.name, ({ look }) => {
      const sample = draw('svg', { viewBox: '0 0 20 8', 'aria-hidden': 'true' }, draw('path', { class: `curve ${look}`, d: 'M1 4H19' }));
      return make('span', {}, sample, make('span'), make('b'));
    }, (entry, { name, value }) => {
      say(entry.children[1], `${name} `);
      say(entry.children[2], value);
    });
  }

  function showCharts() {
    const all = steps();
    const points = (name) => all.map((step) => (step.known ? step[name] : null));
    const [requests, writes, errors] = ['requests', 'writes', 'errors'].map(points);
    const [p50, p99] = ['p50', 'p99'].map((name) => all.map((step) => step[name]));
    const latest = (values) => values[values.length - 1];
    const most = (values) => Math.max(0, ...values.filter((value) => value !== null));
    const isFailing = most(errors) > 0;
    const curves = [{ points: requests, look: 'second' }, { points: writes, look: 'first', hasArea: true }];
    // Drawn only where there were some.
    if (isFailing) curves.push({ points: errors.map((value) => value || null), look: 'third' });
    showChart($('rate'), all, curves, linear(most(requests)));
    showChart($('time'), all, [{ points: p99, look: 'second' }, { points: p50, look: 'first' }], logarithmic(most(p99)));
    const rate = (values) => count(latest(values) || 0);
    const rates = [{ name: 'acknowledged writes', look: 'first', value: rate(writes) }, { name: 'all requests', look: 'second', value: rate(requests) }];
    if (isFailing) rates.push({ name: 'errors', look: 'third', value: rate(errors) });
    const times = [{ name: 'median', look: 'first', value: millis(latest(p50)) }, { name: '99 of 100, slowest node', look: 'second', value: millis(latest(p99)) }];
    showLegend($('rate-legend'), rates);
    showLegend($('time-legend'), times);
    const words = (entries) => entries.map(({ name, value }) => `${name} ${value}`).join(', ');
    set($('rate'), 'aria-label', `Requests a second, now: ${words(rates)}. Most in five minutes: ${count(most(requests))}.`);
    set($('time'), 'aria-label', `Time to answer, now: ${words(times)}. Longest in five minutes: ${millis(most(p99))}.`);
  }

  // ---- Cards ----

  function showCards(all) {
    sync($('nodes'), all, (v) => v.name, createCard, updateCard);
  }

  function createCard(v) {
    const title = make('h3', {}, v.name);
    return make('li', { class: 'node-card' },
      make('div', { class: 'node-head' }, title, make('span', { class: 'role' })),
      make('p', { class: 'says' }), make('dl', { class: 'facts' }), make('ul', { class: 'parts', 'aria-label': `Components of ${v.name}` }));
  }

  function updateCard(card, v) {
    const [head, says, facts, parts] = card.children;
    set(card, 'data-health', v.health);
    set(head.children[1], 'data-role', v.role);
    say(head.children[1], v.role);
    say(says, `${GLYPHS[v.health]} ${healthWords(v)}`);
    sync(facts, factsOf(v).flatMap(([name, value]) => [['dt', name, name], ['dd', `${name}=`, value]]), (fact) => fact[1],
      ([tag]) => make(tag), (element, [, , text]) => say(element, text));
    const components = v.status ? v.status.health.components : [];
    parts.hidden = components.length === 0;
    sync(parts, components, (part) => part.name, () => make('li', {},
      make('span', { class: 'glyph', 'aria-hidden': 'true' }), make('span'), make('span', { class: 'times' }), make('span', { class: 'why' })), updatePart);
  }

  function updatePart(row, part) {
    const [glyph, name, times, why] = row.children;
    set(row, 'data-state', part.state);
    say(glyph, GLYPHS[part.state]);
    say(name, part.name);
    say(times, `${part.state}${part.restarts ? `, ${plural(part.restarts, 'restart')}` : ''}`);
    times.classList.toggle('unseen', part.state === 'healthy' && part.restarts === 0);
    say(why, part.reason || '');
    why.hidden = !part.reason;
  }

  function healthWords(v) {
    if (v.health === 'down') return `down for ${span(v.down)}: ${reasonOf(v.node)}`;
    const parts = ill(v).map((part) => part.name);
    return parts.length ? `${v.health}: ${list(parts)}` : v.health;
  }

  function factsOf(v) {
    const status = v.status;
    if (!status) {
      const last = v.node.lastStatus;
      const facts = [['Address', v.node.haddr]];
      return last ? [...facts, ['Applied', count(last.raft.applied)], ['Was', last.node.state]] : facts;
    }
    return [
      ['Term', count(status.cluster.term)],
      ['Lag', v.isLeader ? '–' : v.behind === null || v.behind === undefined ? 'unknown' : v.behind === 1 ? '1 entry' : `${count(v.behind)} entries`],
      ['Applied', count(status.raft.applied)],
      ['Disk', bytes(status.store.disk_bytes)],
      ['Up for', span(status.node.uptime_ms)],
      ['Address', status.node.haddr],
    ];
  }

  // ---- Events ----

  function kindOf(event) {
    const words = event.what.replaceAll('_', ' ');
    return KINDS[event.what] || [words.charAt(0).toUpperCase() + words.slice(1), '●', 'plain', 'good'];
  }

  function showEvents() {
    const [node, kind] = [$('filter-node').value, $('filter-kind').value];
    const shown = [...state.events.values()]
      .filter((event) => (!node || event.node === node) && (!kind || kindOf(event)[3] === kind))
      .sort((a, b) => b.time_ms - a.time_ms || (b.seq || 0) - (a.seq || 0))
      .slice(0, ROWS_MAX);
    $('no-events').hidden = shown.length > 0;
    sync($('events'), shown, (event) => event.id, (event) => {
      const [word, glyph, tone] = kindOf(event);
      const told = make('span', { class: 'told' }, make('b', {}, word), event.detail ? ` ${event.detail}` : '');
      return make('li', { 'data-tone': tone, 'data-what': event.what },
        make('time', { datetime: new Date(event.time_ms).toISOString() }, clock(event.time_ms)),
        make('span', { class: 'glyph', 'aria-hidden': 'true' }, glyph),
        make('span', { class: 'who' }, `${event.node} ${event.component === 'node' ? '' : event.component}`.trim()), told);
    });
  }

  // Tells a screen reader what is new, not more often than it can be heard.
  const news = {
    waiting: [],
    isPaused: false,
    push(event) {
      this.waiting.push(event);
      this.tell();
    },
    tell() {
      if (this.isPaused || this.waiting.length === 0) return;
      const last = this.waiting.slice(-3).map((event) => `${event.node}, ${event.component}: ${kindOf(event)[0]}`);
      const more = this.waiting.length - last.length;
      this.waiting = [];
      say($('news'), `${last.join('. ')}${more > 0 ? `. And ${plural(more, 'other event')}` : ''}.`);
      this.isPaused = true;
      setTimeout(() => {
        this.isPaused = false;
        this.tell();
      }, NEWS_PAUSE_MS);
    },
  };

  function showChoices(select, choices) {
    sync(select, choices, (choice) => choice.value, ({ value }) => make('option', { value }), (option, { text, isDisabled }) => {
      say(option, text);
      option.disabled = Boolean(isDisabled);
    });
  }

  // ---- Breaking things ----

  function createFaults() {
    const groups = FAULTS.flatMap(([title, faults]) => [make('h3', {}, title), make('div', {}, ...faults.map(([name, body]) => button(name, () => inject(name, body))))]);
    const clear = button('End all faults of this node', () => request('DELETE', 'End all faults'));
    $('faults').replaceChildren(...groups, make('h3', {}, 'Enough'), make('div', { class: 'single' }, clear));
    $('target').addEventListener('change', showBreak);
  }

  function button(name, act) {
    const element = make('button', { type: 'button' }, name);
    element.addEventListener('click', act);
    return element;
  }

  function inject(name, body) {
    return request('POST', name, JSON.stringify(body));
  }

  async function request(method, name, body) {
    const target = $('target').value;
    tell('', `${name} on ${target} …`);
    try {
      const options = { method, body, headers: body ? { 'Content-Type': 'application/json' } : {}, signal: AbortSignal.timeout(FAULT_PATIENCE_MS) };
      const answer = await fetch(`/v1/members/${encodeURIComponent(target)}/faults`, options);
      const said = await answer.json();
      if (answer.ok) tell('good', `✓ ${name} on ${target}: done.`);
      else tell('bad', `✕ ${name} on ${target}: ${said.detail || answer.status}`);
    } catch (error) {
      tell('bad', `✕ ${name} on ${target}: ${error.name === 'TimeoutError' ? 'no answer in time' : 'no answer'}`);
    }
  }

  function tell(tone, text) {
    set($('result'), 'data-tone', tone);
    say($('result'), text);
  }

  function showBreak() {
    const nodes = views();
    const isOn = nodes.some((v) => v.name === own && v.node.fault_injection);
    $('break').hidden = !isOn;
    $('lower').classList.toggle('alone', !isOn);
    if (!isOn) return;
    const isFirst = $('target').options.length === 0;
    showChoices($('target'), nodes.map((v) => ({ value: v.name, text: `${v.name}, ${v.role}`, isDisabled: !v.node.reachable })));
    if (isFirst) {
      const follower = nodes.find((v) => v.role === 'follower');
      if (follower) $('target').value = follower.name;
    }
    const chosen = nodes.find((v) => v.name === $('target').value);
    for (const each of $('faults').querySelectorAll('button')) each.disabled = !chosen || !chosen.node.reachable;
  }

  // ---- The stream ----

  const link = {
    source: null,
    heardAt: performance.now(),
    lostAt: null,
    retryAt: null,
    backoff: BACKOFF_MS[0],

    open() {
      this.retryAt = null;
      this.heardAt = performance.now();
      this.source = new EventSource('/v1/cluster');
      for (const name of ['snapshot', 'update']) this.source.addEventListener(name, (event) => this.hear(event));
      this.source.onerror = () => this.lose();
    },

    hear(event) {
      this.heardAt = performance.now();
      if (this.lostAt !== null) say($('news'), `${own} answers again.`);
      this.lostAt = null;
      this.backoff = BACKOFF_MS[0];
      take(JSON.parse(event.data));
      show();
    },

    lose() {
      if (this.source) this.source.close();
      this.source = null;
      if (this.lostAt === null) {
        this.lostAt = this.heardAt;
        say($('news'), `${own}, the node that serves this page, does not answer.`);
      }
      // Up to a half more, so that not all pages come back at once.
      this.retryAt = performance.now() + this.backoff * (1 + Math.random() / 2);
      this.backoff = Math.min(this.backoff * 2, BACKOFF_MS[1]);
      this.tick();
    },

    tick() {
      const at = performance.now();
      if (this.source && at - this.heardAt > SILENCE_MS_MAX) this.lose();
      else if (this.retryAt !== null && at >= this.retryAt) this.open();
      const isLost = this.lostAt !== null;
      document.body.classList.toggle('is-away', isLost);
      $('away').hidden = !isLost;
      set($('link'), 'data-state', isLost ? 'lost' : state.frames ? 'live' : 'waiting');
      say($('link-text'), isLost ? `${own} is away` : state.frames ? `Live, gathered by ${own}` : `Connecting to ${own}`);
      if (!isLost) return;
      const wait = this.retryAt === null ? 'trying now' : `trying again in ${Math.max(1, Math.ceil((this.retryAt - at) / 1000))} s`;
      say($('away'), `${own}, the node that serves this page, has not answered for ${span(at - this.lostAt)}; ${wait}. What follows is what it told last; any other node shows the cluster as it is now.`);
    },
  };

  function show() {
    const all = views();
    showVerdict(all);
    showPicture(all);
    showCharts();
    showCards(all);
    showEvents();
    showChoices($('filter-node'), [{ value: '', text: 'all' }, ...all.map((v) => ({ value: v.name, text: v.name }))]);
    showBreak();
    link.tick();
  }

  createFaults();
  for (const id of ['filter-node', 'filter-kind']) $(id).addEventListener('change', showEvents);
  new ResizeObserver(() => state.frames && showCharts()).observe($('rate'));
  setInterval(() => link.tick(), 500);
  link.open();
})();
