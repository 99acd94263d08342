// Scrollers that stay at their end while they are there (data-pin), and what tells that there
// is more when they aren't (data-unseen).
'use strict';
self.jitneyScroll = ({root, on}) => {
  const pins = new WeakMap(); // scroller -> its scrollTop when it was at its end, or -1
  const seen = new WeakSet(); // rows that were there when their scroller was at its end
  const all = () => Array.from(root.querySelectorAll('[data-pin]'));
  const atEnd = el => el.scrollHeight - el.scrollTop - el.clientHeight < 8;
  // A phone's keyboard changes the size of a scroller.
  const resized = new ResizeObserver(changes => changes.forEach(({target}) => pins.get(target) >= 0 && toEnd(target)));

  function toEnd(el) {
    el.scrollTop = el.scrollHeight;
    pins.set(el, el.scrollTop);
    count(el);
  }

  // around runs a change of the view.
  function around(change) {
    const pinned = all().filter(el => pins.has(el) && (atEnd(el) || pins.get(el) === el.scrollTop));
    change();
    for (const el of all()) {
      if (!pins.has(el)) resized.observe(el);
      if (!pins.has(el) || pinned.includes(el)) {
        toEnd(el);
      } else {
        pins.set(el, -1); // also when the event of the scroll is still to come
        count(el);
      }
    }
  }

  on('scroll', ev => {
    const el = ev.target, was = pins.get(el);
    // Nobody has scrolled when it stands where we put it: it has become smaller.
    if (was === undefined || was === el.scrollTop) return;
    pins.set(el, atEnd(el) ? el.scrollTop : -1);
    count(el);
  });

  // count shows how many rows have come since the scroller was at its end, as a button that goes there.
  function count(el) {
    const rows = [...el.children];
    if (pins.get(el) >= 0) rows.forEach(row => seen.add(row));
    const n = rows.filter(row => !seen.has(row)).length;
    for (const place of root.querySelectorAll(`[data-unseen="${CSS.escape(el.id)}"]`)) {
      if (!n) {
        place.replaceChildren();
        continue;
      }
      const button = place.firstElementChild ?? place.appendChild(document.createElement('button'));
      button.type = 'button';
      button.textContent = n === 1 ? place.dataset.one : place.dataset.many.replace('#', n);
      button.onclick = () => {
        toEnd(el);
        el.focus({preventScroll: true});
      };
    }
  }

  return {around, toEnd};
};
