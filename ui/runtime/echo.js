// What the user has done and the server hasn't shown yet: rows that the browser shows meanwhile
// (<template data-echo>), and how long it took until the view with it was there (data-latency).
//
// An action is known by the public form of its once. What it has made carries that as data-made.
'use strict';
self.jitneyEcho = ({root, on, toEnd, localize, resend, takeBack}) => {
  const enough = 30; // actions that are waited for, and times that are remembered
  const late = 10e3; // ms after which what was accepted isn't expected any more: another part of the list is in view
  const rows = []; // {el, list, made, act, state}, in the order in which they were made
  const guests = new WeakSet(); // their elements
  const waiting = new Map(); // made -> performance.now() of the event
  const times = []; // ms

  // begin is called when the user does something: el has called the action act.
  function begin(el, act) {
    act.made = publicForm(act.once);
    waiting.set(act.made, performance.now());
    if (waiting.size > enough) waiting.delete(waiting.keys().next().value);
    for (const template of el.querySelectorAll('template[data-echo]')) {
      const clone = template.content.firstElementChild?.cloneNode(true);
      if (!clone) continue;
      for (const part of clone.querySelectorAll('[data-echo-of]')) part.textContent = String(act.signals[part.dataset.echoOf]?.[0] ?? '').trim();
      for (const time of clone.querySelectorAll('time[data-local]')) time.dateTime = new Date().toISOString();
      localize(clone);
      guests.add(clone);
      const row = {el: clone, list: template.dataset.echo, made: act.made, act};
      rows.push(row);
      become(row, 'sending');
    }
    place(true);
  }

  function become(row, state) {
    row.state = state;
    row.el.dataset.echoState = state;
    for (const part of row.el.querySelectorAll('[data-echo-if]')) part.hidden = part.dataset.echoIf !== state;
  }

  // place puts the rows behind the others of their list, if that is in the view.
  function place(show) {
    for (const row of rows) {
      const list = document.getElementById(row.list);
      if (!list || !root.contains(list)) continue;
      if (row.el.parentNode !== list) list.append(row.el);
      if (show && list.hasAttribute('data-pin')) toEnd(list);
    }
  }

  // adopt gives the place of a row in the view that comes to the one that the browser has shown for it.
  function adopt(content) {
    for (const row of [...rows]) {
      const real = content.querySelector(`[data-made="${CSS.escape(row.made)}"]`);
      if (!real) continue;
      rows.splice(rows.indexOf(row), 1);
      if (real.id && row.el.isConnected) {
        guests.delete(row.el);
        row.el.id = real.id;
      } else {
        row.el.remove();
      }
    }
  }

  // arrived is called when a view is in place.
  function arrived() {
    place();
    for (const [made, began] of waiting) {
      if (!root.querySelector(`[data-made="${CSS.escape(made)}"]`)) continue;
      waiting.delete(made);
      times.push(performance.now() - began);
      if (times.length > enough) times.shift();
    }
    draw();
  }

  function accepted(act) {
    rows.filter(row => row.act === act).forEach(row => become(row, 'accepted'));
    setTimeout(() => {
      waiting.delete(act.made);
      rows.filter(row => row.act === act).forEach(drop);
    }, late);
  }

  // refused returns whether the row keeps what was refused.
  function refused(act) {
    waiting.delete(act.made);
    const mine = rows.filter(row => row.act === act);
    for (const row of mine) row.el.isConnected ? become(row, 'refused') : drop(row);
    return mine.some(row => row.el.isConnected);
  }

  function drop(row) {
    if (rows.includes(row)) rows.splice(rows.indexOf(row), 1);
    row.el.remove();
  }

  on('click', ev => {
    const button = ev.target.closest?.('[data-echo-do]'), row = button && rows.find(row => row.el.contains(button));
    if (row?.state !== 'refused') return;
    if (button.dataset.echoDo === 'edit') {
      drop(row);
      takeBack(row.act);
      return;
    }
    row.act = resend(row.act);
    row.made = row.act.made = publicForm(row.act.once);
    waiting.set(row.made, performance.now());
    become(row, 'sending');
    document.getElementById(row.list)?.focus({preventScroll: true}); // the button is hidden now
  });

  // draw shows the times as bars and in words.
  function draw() {
    for (const place of root.querySelectorAll('[data-latency]')) {
      if (!times.length || place.drawn === times.join()) continue;
      place.drawn = times.join();
      const sorted = times.toSorted((a, b) => a - b), max = sorted.at(-1), p50 = sorted[(sorted.length - 1) >> 1];
      const make = (name, attributes) => {
        const el = document.createElementNS('http://www.w3.org/2000/svg', name);
        for (const [k, v] of Object.entries(attributes)) el.setAttribute(k, v);
        return el;
      };
      const plot = make('svg', {viewBox: `0 0 ${4 * enough} 16`, 'aria-hidden': 'true'});
      times.forEach((ms, i) => {
        const height = Math.max(1, 16 * ms / max);
        plot.append(make('rect', {x: 4 * (enough - times.length + i), y: 16 - height, width: 3, height}));
      });
      const words = document.createElement('span');
      const round = ms => ms < 10 ? ms.toFixed(1) : ms.toFixed(0);
      words.textContent = `p50 ${round(p50)} ms, max ${round(max)} ms (last ${times.length})`;
      place.replaceChildren(plot, words);
      place.dataset.p50 = p50;
      place.dataset.max = max;
    }
  }

  // publicForm is what Context.Once makes of a once: the start of its SHA-256, in base64. It is
  // computed here, since browsers offer that on HTTPS only; the text is short enough for one block.
  function publicForm(once) {
    const block = new DataView(new ArrayBuffer(64)), text = once + ' ';
    for (let i = 0; i < text.length; i++) block.setUint8(i, text.charCodeAt(i));
    block.setUint8(text.length, 0x80);
    block.setUint32(60, text.length * 8);
    const words = Array.from({length: 16}, (_, i) => block.getUint32(4 * i));
    const turn = (x, n) => x >>> n | x << 32 - n;
    for (let i = 16; i < 64; i++) {
      const a = words[i - 15], b = words[i - 2];
      words[i] = words[i - 16] + (turn(a, 7) ^ turn(a, 18) ^ a >>> 3) + words[i - 7] + (turn(b, 17) ^ turn(b, 19) ^ b >>> 10) | 0;
    }
    let [a, b, c, d, e, f, g, h] = starts;
    for (let i = 0; i < 64; i++) {
      const x = h + (turn(e, 6) ^ turn(e, 11) ^ turn(e, 25)) + (e & f ^ ~e & g) + rounds[i] + words[i] | 0;
      const y = (turn(a, 2) ^ turn(a, 13) ^ turn(a, 22)) + (a & b ^ a & c ^ b & c) | 0;
      [a, b, c, d, e, f, g, h] = [x + y | 0, a, b, c, d + x | 0, e, f, g];
    }
    const bytes = [a, b, c, d, e, f].flatMap((v, i) => [24, 16, 8, 0].map(n => (v + starts[i]) >>> n & 255));
    return btoa(String.fromCharCode(...bytes)).replaceAll('+', '-').replaceAll('/', '_');
  }

  const primes = [];
  for (let n = 2; primes.length < 64; n++) if (primes.every(p => n % p)) primes.push(n);
  const fraction = x => (x - Math.floor(x)) * 2 ** 32 | 0;
  const rounds = primes.map(p => fraction(Math.cbrt(p))), starts = primes.slice(0, 8).map(p => fraction(Math.sqrt(p)));

  return {
    begin, accepted, refused, adopt, arrived,
    guest: node => guests.has(node),
    unsent: () => rows.filter(row => row.state === 'refused').map(row => row.act),
  };
};
