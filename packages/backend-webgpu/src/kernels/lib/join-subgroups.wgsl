// Joining of parts (lib/parts.wgsl) by subgroups. A chunk is SIZE columns of one row; each is left, counted and joined by a subgroup by itself,
// so that subgroups do not wait for each other and those of several workgroups may join. The weights of the parts are found by the
// lanes side by side, and told by one to the others. In `state` a chunk is m and l [splits, 2], then acc [splits, SIZE].

// Which chunk of a block a subgroup has, and whether there is one; the row, and the column of the lane.
struct Chunk {
  n: u32,
  there: bool,
  r: u32,
  column: u32,
}

fn chunk_of(turn: u32, subgroup: u32, slot: u32, rows: u32) -> Chunk {
  let n = turn * ${SUBGROUPS}u + subgroup;
  let taken = min(n, ${CHUNKS - 1}u);
  let r = taken / ${COLUMNS / SIZE}u;
  let column = taken % ${COLUMNS / SIZE}u * ${SIZE}u;
  return Chunk(taken, n == taken && r < rows && column < args.columns, r, column + slot);
}

fn chunk_at(block: u32, n: u32) -> u32 {
  return args.parts_first + (block * ${CHUNKS}u + n) * args.splits * ${SIZE + 2}u;
}

// Writes what a lane has of a part: its column, also where that lies behind Dv, and the first two m and l.
fn leave_chunk(chunk: u32, part: u32, slot: u32, word: u32, m: f32, l: f32) {
  atomicStore(&state[chunk + 2u * args.splits + part * ${SIZE}u + slot], word);
  if (slot < 2u) {
    atomicStore(&state[chunk + 2u * part + slot], bitcast<u32>(select(m, l, slot == 1u)) + 1u);
  }
}

// Writes a column of a row to out, and its words by one lane for all that have a part of them.
fn finish_column(group: Group, r: u32, column: u32, acc: f32, nan: bool, m: f32, l: f32) {
  let row = group.first + r;
  let h = group.h + row / args.rows;
  let i = row % args.rows;
  let head = head_of(group.b, h);
  let seen = finish_row(head, h, m, select(m, 0.0, m == HIDDEN) * args.to_logit, l, false);
  //#if LSE
  if (column == 0u) {
    lse[head.index * args.rows + i - args.lse_first] = seen.lse;
  }
  //#endif
  let at = group.b * args.out_batch + h * args.out_head + i * args.out_row - args.out_first + column;
  var x = select(acc, 0.0, nan) * seen.weight;
  //#if DROPOUT
  x *= args.score.keep_scale;
  //#endif
  let bits = select(finite_or_nan(x), 0x7fc00000u, seen.bad || (seen.any && nan));
  //#if OUT_DTYPE == F32
  //#if OUT_WORDS == 4
  let others = vec4u(bits, subgroupShuffleDown(bits, 1u), subgroupShuffleDown(bits, 2u), subgroupShuffleDown(bits, 3u));
  if (column % 4u == 0u && column < args.columns) {
    out[at / 4u] = others;
  }
  //#else
  if (column < args.columns) {
    out[at] = bits;
  }
  //#endif
  //#elif OUT_WORDS > 0
  let half = narrow(${OUT_DTYPE}u, bits);
  let pair = half | (subgroupShuffleDown(half, 1u) << 16u);
  //#if OUT_WORDS == 2
  let next = subgroupShuffleDown(pair, 2u);
  if (column % 4u == 0u && column < args.columns) {
    out[at / 4u] = vec2u(pair, next);
  }
  //#else
  if (column % 2u == 0u && column < args.columns) {
    out[at / 2u] = pair;
  }
  //#endif
  //#else
  if (column < args.columns) {
    // A word may hold the end of one row and the beginning of the next, each written by another thread.
    let shift = at % 2u * 16u;
    atomicAnd(&out[at / 2u], 0xffff0000u >> shift);
    atomicOr(&out[at / 2u], narrow(${OUT_DTYPE}u, bits) << shift);
  }
  //#endif
}

// Counts the part of a chunk that this workgroup has left. Who counts the last of them joins all, TAKEN at a time.
fn join_chunk(group: Group, counter: u32, chunk: u32, place: Chunk, lane: u32, slot: u32) {
  var counted = 0u;
  if (place.there && slot == 0u) {
    counted = atomicAdd(&state[counter], 1u) + 1u;
  }
  if (subgroupShuffle(counted, lane - slot) != args.splits) {
    return;
  }
  if (slot == 0u) {
    atomicStore(&state[counter], 0u);
  }
  var m = HIDDEN;
  var l = 0.0;
  var acc = 0.0;
  var nan = false;
  //#if ONE_SET
  {
    const first = 0u;
  //#else
  for (var first = 0u; first < args.splits; first += ${TAKEN}u) {
  //#endif
    // Behind the last part it is the last again.
    let last = min(${TAKEN}u, args.splits - first) - 1u;
    let at = chunk + 2u * args.splits + first * ${SIZE}u + slot;
    // Words less 1: so those that are not there are the largest, and NaN comes before them.
    //#for x in TAKEN
    var acc${x} = 0xffffffffu;
    //#endfor
    //#for w in SHARES
    let sums${w} = chunk + 2u * (first + min(slot % ${TAKEN / SHARES}u + ${w * TAKEN / SHARES}u, last));
    var m${w} = 0xffffffffu;
    var l${w} = 0xffffffffu;
    //#endfor
    var most = 0xffffffffu;
    var missing = true;
    while (missing) {
      //#for x in TAKEN
      acc${x} = atomicLoad(&state[at + min(${x}u, last) * ${SIZE}u]) - 1u;
      //#endfor
      //#for w in SHARES
      m${w} = atomicLoad(&state[sums${w}]) - 1u;
      l${w} = atomicLoad(&state[sums${w} + 1u]) - 1u;
      //#endfor
      most = acc0;
      //#for x in TAKEN - 1
      most = max(most, acc${x + 1});
      //#endfor
      var all = most;
      //#for w in SHARES
      all = max(all, max(m${w}, l${w}));
      //#endfor
      missing = subgroupAny(all == 0xffffffffu);
    }
    //#for x in TAKEN
    atomicStore(&state[at + min(${x}u, last) * ${SIZE}u], 0u);
    //#endfor
    //#for w in (2 * TAKEN + SIZE - 1) / SIZE
    atomicStore(&state[chunk + 2u * first + min(slot + ${w * SIZE}u, 2u * last + 1u)], 0u);
    //#endfor
    var top = m;
    //#for w in SHARES
    let max${w} = select(HIDDEN, bitcast<f32>(m${w}), slot % ${TAKEN / SHARES}u + ${w * TAKEN / SHARES}u <= last);
    top = max(top, max${w});
    //#endfor
    //#for x in LOG_TAKEN
    top = max(top, subgroupShuffleXor(top, ${1 << x}u));
    //#endfor
    var sum = 0.0;
    //#for w in SHARES
    let weight${w} = weight(max${w}, top);
    sum = fma(weight${w}, bitcast<f32>(l${w}), sum);
    //#endfor
    //#for x in LOG_TAKEN
    sum += subgroupShuffleXor(sum, ${1 << x}u);
    //#endfor
    let before = weight(m, top);
    m = top;
    l = fma(before, l, sum);
    acc *= before;
    //#for x in TAKEN
    acc = fma(subgroupShuffle(weight${x / (TAKEN / SHARES)}, lane - slot + ${x % (TAKEN / SHARES)}u), bitcast<f32>(acc${x}), acc);
    //#endfor
    nan = nan || most == NAN_WORD - 1u;
  }
  finish_column(group, place.r, place.column, acc, nan || !is_finite(bitcast<u32>(acc)), m, l);
}
