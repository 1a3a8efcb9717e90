import type { VNode } from "preact";
import type { Trace } from "./trace.ts";

const CELL = 10;
const MARGIN = 12;

/** All S x S pairs: what is hidden, what was seen and forgotten, and the tile that is held now. */
export function ScoreMap({
  trace: { settings, steps, visible },
  at,
}: {
  readonly trace: Trace;
  readonly at: number;
}): VNode {
  const { S } = settings;
  const { rows, keys, P } = steps[at];
  const width = keys[1] - keys[0];
  const inTile = (i: number, j: number): boolean => rows[0] <= i && i < rows[1] && keys[0] <= j && j < keys[1];
  /** Tiles taken in before this one. */
  const isDone = (i: number, j: number): boolean =>
    steps.slice(0, at).some((step) => step.rows[0] <= i && i < step.rows[1] && step.keys[0] <= j && j < step.keys[1]);
  const all = Array.from({ length: S }, (_, n) => n);
  const size = MARGIN + S * CELL;
  return (
    <figure class="map">
      <svg viewBox={`0 0 ${size + 1} ${size + 1}`} role="img" aria-labelledby="tile-said">
        {all.map((n) => (
          <g key={n} class="index">
            <text x={MARGIN + (n + 0.5) * CELL} y={MARGIN - 3}>
              {n}
            </text>
            <text x={MARGIN / 2} y={MARGIN + (n + 0.5) * CELL + 2}>
              {n}
            </text>
          </g>
        ))}
        {all.flatMap((i) =>
          all.map((j) => {
            const kind = !visible(i, j) ? "unseen" : inTile(i, j) ? "held" : isDone(i, j) ? "done" : "ahead";
            const heat = kind === "held" ? P[(i - rows[0]) * width + (j - keys[0])] : 0;
            return (
              <rect
                key={`${i} ${j}`}
                class={kind}
                x={MARGIN + j * CELL}
                y={MARGIN + i * CELL}
                width={CELL}
                height={CELL}
                style={{ "--heat": heat.toFixed(3) }}
              />
            );
          }),
        )}
        <rect
          class="frame"
          x={MARGIN + keys[0] * CELL}
          y={MARGIN + rows[0] * CELL}
          width={width * CELL}
          height={(rows[1] - rows[0]) * CELL}
        />
      </svg>
      <figcaption>
        Rows i down, keys j across. <span class="key held">held now, stronger for larger P</span>{" "}
        <span class="key done">taken in and forgotten</span> <span class="key ahead">to come</span>{" "}
        <span class="key unseen">hidden</span>
      </figcaption>
    </figure>
  );
}
