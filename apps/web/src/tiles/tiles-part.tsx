import type { VNode } from "preact";
import { useEffect, useMemo, useState } from "preact/hooks";
import { Button, Pick, Scrolls } from "../controls.tsx";
import { ScoreMap } from "./score-map.tsx";
import { D, traceOf, type Settings, type Step, type Trace } from "./trace.ts";

const LENGTHS = [4, 6, 8, 12, 16];
const TILES = [1, 2, 3, 4, 6, 8];
/** Of a window; -1 is unbounded. */
const REACHES = [-1, 0, 1, 2, 3, 4, 6];
const STEP_MS = 1200;

const START: Settings = { S: 8, Br: 4, Bc: 2, causal: true, window: [-1, -1], seed: 1 };

const ALGORITHM = `\
scores      S = q kᵀ / √D                              [Br, Bc]  hidden pairs −∞
softmax     m' = max(m, rowmax S), alpha = exp(m − m')  [Br]
            P = exp(S − m'), l = alpha l + rowsum P     [Br, Bc], [Br]
accumulate  acc = alpha acc + P v                       [Br, D]
finish      out = acc / l, after the last tile          [Br, D]`;

/** The algorithm made visible: `tiledAttention` of the reference, one tile at a time. */
export function TilesPart(): VNode {
  const [settings, setSettings] = useState(START);
  const [at, setAt] = useState(0);
  const [isPlaying, setPlaying] = useState(false);
  /** The row that the last table is about, if somebody chose one. */
  const [chosenRow, setRow] = useState<number>();
  const trace = useMemo(() => traceOf(settings), [settings]);
  const last = trace.steps.length - 1;
  const current = trace.steps[at];

  useEffect(() => {
    if (!isPlaying) return;
    if (at >= last) return setPlaying(false);
    const timer = setTimeout(() => setAt(at + 1), STEP_MS);
    return () => clearTimeout(timer);
  }, [isPlaying, at, last]);

  const change = (changes: Partial<Settings>): void => {
    setSettings({ ...settings, ...changes });
    setAt(0);
    setPlaying(false);
  };
  const go = (to: number): void => {
    setPlaying(false);
    setAt(Math.min(Math.max(to, 0), last));
  };
  const play = (): void => {
    if (!isPlaying && at >= last) setAt(0);
    setPlaying(!isPlaying);
  };

  return (
    <section id="tiles" aria-labelledby="tiles-title">
      <h2 id="tiles-title">The algorithm, tile by tile</h2>
      <p>
        Attention needs a softmax over all keys of a row, but only ever holds one tile of scores. For each tile it keeps
        a running max m and a running sum l, and when the max grows it rescales what it has by alpha. After the last
        tile the result is the exact one. The numbers are those of <code>tiledAttention</code> in{" "}
        <code>@fa/core/reference</code>, with D = {D}.
      </p>
      <details>
        <summary>In five lines</summary>
        <Scrolls label="The algorithm">
          <pre>{ALGORITHM}</pre>
        </Scrolls>
      </details>
      <form onSubmit={(event) => event.preventDefault()}>
        <fieldset class="fields">
          <legend>Problem</legend>
          <Pick title="sequence length S" value={settings.S} of={LENGTHS} set={(S) => change({ S })} />
          <Pick title="tile rows Br" value={settings.Br} of={TILES} set={(Br) => change({ Br })} />
          <Pick title="tile keys Bc" value={settings.Bc} of={TILES} set={(Bc) => change({ Bc })} />
          <label>
            <input type="checkbox" checked={settings.causal} onChange={() => change({ causal: !settings.causal })} />
            causal
          </label>
          <Pick
            title="window: keys to the left"
            value={settings.window[0]}
            of={REACHES}
            unbounded="all"
            set={(left) => change({ window: [left, settings.window[1]] })}
          />
          <Pick
            title="to the right"
            value={settings.window[1]}
            of={REACHES}
            unbounded="all"
            set={(right) => change({ window: [settings.window[0], right] })}
          />
          <Button onClick={() => change({ seed: settings.seed + 1 })}>Other numbers</Button>
        </fieldset>
        <fieldset class="steps">
          <legend>Step through</legend>
          <Button off={at === 0} onClick={() => go(0)}>
            First
          </Button>
          <Button off={at === 0} onClick={() => go(at - 1)}>
            Back
          </Button>
          <Button main off={at === last} onClick={() => go(at + 1)}>
            Next tile
          </Button>
          <Button onClick={play}>{isPlaying ? "Pause" : "Play"}</Button>
          <label class="wide">
            tile{" "}
            <input
              type="range"
              min={1}
              max={last + 1}
              value={at + 1}
              onInput={({ currentTarget }) => go(currentTarget.valueAsNumber - 1)}
              aria-valuetext={`tile ${at + 1} of ${last + 1}`}
            />
          </label>
        </fieldset>
      </form>
      <p role="status" class="said" id="tile-said">
        {inWords(trace, at)}
      </p>
      <div class="tiles">
        <ScoreMap trace={trace} at={at} />
        <State step={current} exact={trace.exact} />
      </div>
      <div class="tiles">
        <Matrix title="S: scores of the tile, 0.5 q.k" values={current.S} step={current} heat={scoreHeat(current.S)} />
        <Matrix title="P = exp(S - m)" values={current.P} step={current} heat={(p) => p} />
      </div>
      <RowStory
        trace={trace}
        at={at}
        row={Math.min(chosenRow ?? current.rows[1] - 1, settings.S - 1)}
        setRow={setRow}
      />
    </section>
  );
}

const span = ([from, to]: readonly [number, number]): string => (to - from === 1 ? `${from}` : `${from} to ${to - 1}`);

function inWords({ steps, emptyTiles }: Trace, at: number): string {
  const { rows, keys, visibility, alpha, before, last, error } = steps[at];
  const rescaled = alpha.filter((a, r) => before.m[r] !== -Infinity && a < 1).length;
  return [
    `Tile ${at + 1} of ${steps.length}: rows ${span(rows)}, keys ${span(keys)}, ${visibility === "full" ? "all visible" : "partly hidden"}.`,
    rescaled > 0 && `The max grew in ${rescaled} ${rescaled === 1 ? "row" : "rows"}: acc and l were rescaled by alpha.`,
    last && `That was the last tile of these rows: out = acc / l is off by ${distance(Math.max(...error))}.`,
    at === 0 &&
      emptyTiles > 0 &&
      `${emptyTiles} ${emptyTiles === 1 ? "tile shows" : "tiles show"} nothing and ${emptyTiles === 1 ? "is" : "are"} never touched.`,
  ]
    .filter(Boolean)
    .join(" ");
}

/** As wide as a digit. */
const FIGURE_SPACE = "\u2007";

/** Two decimals, with a minus as wide as a digit. */
function short(x: number): string {
  if (x === -Infinity) return "−∞";
  return x.toFixed(2).replace("-", "−");
}

function distance(x: number): string {
  return x < 1e-12 ? "nothing" : x < 0.005 ? x.toExponential(0) : x.toFixed(2);
}

/** 0 for the least score of a tile, 1 for its largest. */
function scoreHeat(S: Float64Array): (s: number) => number {
  const seen = S.filter((s) => s !== -Infinity);
  const least = Math.min(...seen);
  const range = Math.max(...seen) - least || 1;
  return (s) => (s === -Infinity ? 0 : (s - least) / range);
}

/** A [Br, Bc] array of the tile, shaded. */
function Matrix({
  title,
  values,
  step: { rows, keys, S },
  heat,
}: {
  readonly title: string;
  readonly values: Float64Array;
  readonly step: Step;
  readonly heat: (value: number) => number;
}) {
  const [j0, j1] = keys;
  const columns = Array.from({ length: j1 - j0 }, (_, c) => c);
  return (
    <Scrolls label={title}>
      <table class="numbers matrix">
        <caption>{title}</caption>
        <thead>
          <tr>
            <th scope="col">row</th>
            {columns.map((c) => (
              <th key={c} scope="col">
                key {j0 + c}
              </th>
            ))}
          </tr>
        </thead>
        <tbody>
          {indices(rows).map((i, r) => (
            <tr key={i}>
              <th scope="row">{i}</th>
              {columns.map((c) => {
                const n = r * columns.length + c;
                const isHidden = S[n] === -Infinity;
                return (
                  <td key={c} class={isHidden ? "hidden" : ""} style={{ "--heat": heat(values[n]).toFixed(3) }}>
                    {short(values[n])}
                  </td>
                );
              })}
            </tr>
          ))}
        </tbody>
      </table>
    </Scrolls>
  );
}

const indices = ([from, to]: readonly [number, number]): number[] =>
  Array.from({ length: to - from }, (_, r) => from + r);

/** What the block of rows holds after the tile. */
function State({
  step: { rows, before, m, l, alpha, out, error, last },
  exact,
}: {
  readonly step: Step;
  readonly exact: Float64Array;
}) {
  const vector = (values: Float64Array, at: number): string =>
    Array.from(values.subarray(at, at + D), (x) => short(x).padStart(5, FIGURE_SPACE)).join(" ");
  return (
    <Scrolls label="State of the rows">
      <table class="numbers">
        <caption>what these rows hold{last ? ", at their end" : ""}</caption>
        <thead>
          <tr>
            {["row", "m before", "m", "alpha", "l", "out = acc / l, above the exact", "off by"].map((column) => (
              <th key={column} scope="col">
                {column}
              </th>
            ))}
          </tr>
        </thead>
        <tbody>
          {indices(rows).map((i, r) => (
            <tr key={i}>
              <th scope="row">{i}</th>
              <td>{short(before.m[r])}</td>
              <td class={m[r] > before.m[r] ? "grew" : ""}>{short(m[r])}</td>
              <td>{short(alpha[r])}</td>
              <td>{short(l[r])}</td>
              <td class="vector">
                {vector(out, r * D)}
                <br />
                <span class="quiet">{vector(exact, i * D)}</span>
              </td>
              <td>{distance(error[r])}</td>
            </tr>
          ))}
        </tbody>
      </table>
    </Scrolls>
  );
}

/** How one row's running max and sum came to be: a column a tile. */
function RowStory({
  trace: { steps, settings },
  at,
  row,
  setRow,
}: {
  readonly trace: Trace;
  readonly at: number;
  readonly row: number;
  readonly setRow: (row: number) => void;
}) {
  const seen = steps.map((step, n) => ({ ...step, n })).filter(({ rows: [from, to] }) => from <= row && row < to);
  const lines: Readonly<Record<string, (step: Step, r: number) => string>> = {
    m: ({ m }, r) => short(m[r]),
    alpha: ({ alpha }, r) => short(alpha[r]),
    l: ({ l }, r) => short(l[r]),
    "off by": ({ error }, r) => distance(error[r]),
  };
  return (
    <div>
      <h3>One row as its tiles advance</h3>
      <Pick title="row" value={row} of={indices([0, settings.S])} set={setRow} />
      <Scrolls label={`Row ${row}, tile by tile`}>
        <table class="numbers">
          <thead>
            <tr>
              <th scope="col">after keys</th>
              {seen.map(({ n, keys }) => (
                <th key={n} scope="col" aria-current={n === at ? "step" : undefined}>
                  {span(keys)}
                </th>
              ))}
            </tr>
          </thead>
          <tbody>
            {Object.entries(lines).map(([name, value]) => (
              <tr key={name}>
                <th scope="row">{name}</th>
                {seen.map((step) => (
                  <td key={step.n} class={step.n === at ? "now" : ""}>
                    {step.n <= at ? value(step, row - step.rows[0]) : "·"}
                  </td>
                ))}
              </tr>
            ))}
          </tbody>
        </table>
      </Scrolls>
    </div>
  );
}
