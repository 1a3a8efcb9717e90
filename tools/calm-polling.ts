// Dawn in Node asks for its events by one setImmediate after the other for as long as anything is awaited, which keeps a core
// busy. Software adapters need that core to compile shaders: after some turns in a row it is asked to come back a millisecond later.

/** Some tenths of a millisecond. */
const TURNS = 20;

const soon = globalThis.setImmediate;
/** Polls so far of which each asked for the next. */
let turns = 0;
let polling = false;

function calm(callback: (...args: unknown[]) => void, ...args: unknown[]): unknown {
  // Only an addon's functions are native, or those that are bound.
  if (!Function.prototype.toString.call(callback).includes("[native code]")) return soon(callback, ...args);
  turns = polling ? turns + 1 : 0;
  const poll = (): void => {
    polling = true;
    try {
      callback(...args);
    } finally {
      polling = false;
    }
  };
  return turns < TURNS ? soon(poll) : setTimeout(poll, 1);
}

globalThis.setImmediate = Object.assign(calm, { __promisify__: soon.__promisify__ }) as typeof setImmediate;
