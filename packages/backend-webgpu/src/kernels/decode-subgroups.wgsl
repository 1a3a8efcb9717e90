enable subgroups;
requires subgroup_id;
// Subgroup operations stand in control flow that is uniform in a subgroup, which the analysis does not see.
diagnostic(off, subgroup_uniformity);

// As decode.wgsl, for few rows and on subgroups: what threads pass on there by workgroup memory goes from lane to lane here, so
// the loop over keys has no barrier. LANES lanes, a team, share a key: each has every LANES-th unit of its rows of k and v, and
// sums the same columns. A team takes KEYS keys at a time. The products of its lanes are added up so that each lane is left
// with VALUES of the team's [ROWS, KEYS] scores (or COPIES lanes with the same one), makes probabilities of them, and
// tells them to the others.

//#include "lib/launch.wgsl"
//#include "lib/score.wgsl"
//#include "lib/rows.wgsl"
//#include "lib/decode.wgsl"

// Of subgroups: acc [SUBGROUPS, ROWS, COLUMNS], and m and l [ROWS, SUBGROUPS].
var<workgroup> acc_smem: array<vec4f, ${SUBGROUPS * ROWS * VECTORS}>;
var<workgroup> sums_smem: array<vec2f, ${ROWS * SUBGROUPS}>;
// Bits: elements of acc whose row sees an element of v that is not finite; and rows that see such an element of k.
var<workgroup> bad_out_smem: array<atomic<u32>, ${ROWS * COLUMNS / 32}>;
var<workgroup> bad_rows_smem: atomic<u32>;

// P of a score, or what a smaller max weighs.
fn weight(x: f32, m: f32) -> f32 {
  return select(exp2((x - m) * args.to_exponent), 0.0, x == HIDDEN);
}

//#include "lib/finish.wgsl"
// Rows that share a key head: batch, first query head, which row is the first, and how many.
struct Group {
  b: u32,
  h: u32,
  first: u32,
  rows: u32,
}

//#include "lib/parts.wgsl"
//#include "lib/join-subgroups.wgsl"

// Marks what becomes NaN by the units that a lane has of the keys of its team.
fn mark_nonfinite(group: Group, k_at: u32, v_at: u32, begin: u32, end: u32, team: u32, unit: u32) {
  for (var j0 = begin; j0 < end; j0 += args.tile_kv) {
    for (var j = j0 + team; j < min(j0 + args.tile_kv, end); j += ${TEAMS}u) {
      var seen_by = 0u;
      for (var r = 0u; r < group.rows; r++) {
        let row = group.first + r;
        seen_by |= select(0u, 1u << r, visible(head_of(group.b, group.h + row / args.rows), row % args.rows, j));
      }
      for (var n = unit; n < ${UNITS * LANES}u; n += ${LANES}u) {
        let column = n * ${UNIT}u;
        let bad = bad_elements(load_v(v_at + j * args.v_row + column, elements_at(column, args.columns)));
        if (bad != 0u) {
          for (var r = 0u; r < ${ROWS}u; r++) {
            atomicOr(&bad_out_smem[r * ${COLUMNS / 32}u + column / 32u], select(0u, bad << (column % 32u), ((seen_by >> r) & 1u) != 0u));
          }
        }
        if (bad_elements(fetch_k(k_at, j, n)) != 0u) {
          atomicOr(&bad_rows_smem, seen_by);
        }
      }
    }
  }
}

@compute @workgroup_size(${THREADS})
fn main(
  @builtin(workgroup_id) id: vec3u,
  @builtin(num_workgroups) count: vec3u,
  @builtin(subgroup_id) subgroup: u32,
  @builtin(subgroup_size) size: u32,
  @builtin(subgroup_invocation_id) lane: u32,
) {
  // setup: q [R, D]; m, l [R] and acc [R, Dv] of each team
  let place = workgroup_place(args.launch, id, count, vec2u(args.splits * ${BLOCKS}u, args.heads));
  if (place.z == NOWHERE) {
    return;
  }
  // Blocks of rows on the same keys are neighbours: what one has read the others find in the cache.
  let block = place.x % ${BLOCKS}u;
  let split = place.x / ${BLOCKS}u;
  let kv_head = args.head_from + place.y;
  let b = args.batch_from + place.z;
  let h = kv_head * args.group;
  // Rows [first_row, first_row + rows) of the key head.
  let first_row = block * ${ROWS}u;
  let rows = min(args.rows * args.group - first_row, ${ROWS}u);
  // Where subgroups are larger than SIZE, each SIZE lanes are taken for one.
  let thread = (subgroup * size + lane) % ${THREADS}u;
  let own = thread / ${SIZE}u;
  let slot = lane % ${SIZE}u;
  let unit = lane % ${LANES}u;
  let team = thread / ${LANES}u;
  let first_lane = lane - unit;
  // Lane `unit` of a team has row `row` and keys key_slot to key_slot + VALUES - 1 of the KEYS keys.
  let row = unit / ${LANES / ROWS}u;
  let key_slot = unit % ${LANES / ROWS}u / ${COPIES}u * ${VALUES}u;
  let head = head_of(b, h + (first_row + min(row, rows - 1u)) / args.rows);
  let i = (first_row + row) % args.rows;
  let k_at = b * args.k_batch + kv_head * args.k_head - args.k_first;
  let v_at = b * args.v_batch + kv_head * args.v_head - args.v_first;
  //#if BAND
  let seen = key_range(0u, args.rows - 1u, args.keys);
  //#else
  let seen = Range(0u, 0u, args.keys, args.keys);
  //#endif
  let begin = min(seen.begin + split * args.split_keys, seen.end);
  let end = min(begin + args.split_keys, seen.end);
  // Read in the place of those behind it, which are hidden.
  let last = max(end, 1u) - 1u;
  // The first keys and values are on their way while q is.
  //#for n in KEYS
  //#for u in UNITS
  var k${n}_${u} = fetch_k(k_at, min(begin + team + ${n * TEAMS}u, last), unit + ${u * LANES}u);
  //#endfor
  //#endfor
  //#for n in KEYS
  //#for u in UNITS
  var v${n}_${u} = fetch_v(v_at, min(begin + team + ${n * TEAMS}u, last), (unit + ${u * LANES}u) * ${UNIT}u);
  //#endfor
  //#endfor
  // q of row r begins at q_at, row q_i of its head. Behind the last row it is anything: its scores are hidden.
  var q_i = first_row % args.rows;
  var q_at = b * args.q_batch + (h + first_row / args.rows) * args.q_head + q_i * args.q_row - args.q_first;
  //#for r in ROWS
  //#for u in UNITS
  let d${r}_${u} = (unit + ${u * LANES}u) * ${UNIT}u;
  //#if WHOLE
  var unit${r}_${u} = load_q(q_at + d${r}_${u}, ${UNIT}u);
  //#else
  var unit${r}_${u} = load_q(q_at + d${r}_${u}, elements_at(d${r}_${u}, args.depth));
  //#endif
  //#endfor
  q_i += 1u;
  q_at += select(args.q_row, args.q_head - (args.rows - 1u) * args.q_row, q_i == args.rows);
  q_i = select(q_i, 0u, q_i == args.rows);
  //#endfor
  // Bits: rows whose q has an element that is not finite. It becomes 0.
  var bad_rows = 0u;
  {
    var watched = vec4u();
    //#for r in ROWS
    //#for u in UNITS
    watched = watch(watched, unit${r}_${u});
    //#endfor
    //#endfor
    if (subgroupAny(was_bad(watched))) {
      //#for r in ROWS
      //#for u in UNITS
      bad_rows |= select(0u, ${1 << r}u, was_bad(watch(vec4u(), unit${r}_${u})));
      unit${r}_${u} &= ~nonfinite_elements(unit${r}_${u});
      //#endfor
      //#endfor
      //#for x in LOG_LANES
      bad_rows |= subgroupShuffleXor(bad_rows, ${1 << x}u);
      //#endfor
    }
  }
  //#for r in ROWS
  //#for u in UNITS
  //#for part in UNIT / 4
  let q${r}_${u * UNIT / 4 + part} = unit_vector(unit${r}_${u}, ${part}u) * SIGN;
  //#endfor
  //#endfor
  //#endfor
  let bad_row = ((bad_rows >> row) & 1u) != 0u;
  // This lane has met an element that is not finite, and took 0 in its place.
  var bad_keys = false;
  var bad_values = false;
  // Of row `row`: the max, and the sum over the keys of this lane. Of all rows: the columns of this lane.
  var m = HIDDEN;
  var l = 0.0;
  //#for r in ROWS
  //#for x in UNITS * UNIT / 4
  var acc${r}_${x} = vec4f();
  //#endfor
  //#endfor

  for (var j0 = begin; j0 < end; j0 += args.tile_kv) {
    let j1 = min(j0 + args.tile_kv, end);
    {
      var watched = vec4u();
      //#for n in KEYS
      //#for u in UNITS
      watched = watch(watched, k${n}_${u});
      //#endfor
      //#endfor
      if (was_bad(watched)) {
        bad_keys = true;
        //#for n in KEYS
        //#for u in UNITS
        k${n}_${u} &= ~nonfinite_elements(k${n}_${u});
        //#endfor
        //#endfor
      }
    }
    // scores: S = q k^T [R, KEYS], first each lane's share of the features
    //#for n in KEYS
    //#for x in UNITS * UNIT / 4
    let k${n}_part${x} = unit_vector(k${n}_${4 * x / UNIT}, ${x % (UNIT / 4)}u);
    //#endfor
    //#for r in ROWS
    var s${r * KEYS + n} = dot(q${r}_0, k${n}_part0);
    //#for x in UNITS * UNIT / 4 - 1
    s${r * KEYS + n} += dot(q${r}_${x + 1}, k${n}_part${x + 1});
    //#endfor
    //#endfor
    //#endfor
    // The next keys are on their way from here on.
    //#if SKIP
    if (j1 < end) {
    //#else
    {
    //#endif
      //#for n in KEYS
      //#for u in UNITS
      k${n}_${u} = fetch_k(k_at, min(j1 + team + ${n * TEAMS}u, last), unit + ${u * LANES}u);
      //#endfor
      //#endfor
    }
    //#for x in LOG_LANES
    //#if ROWS * KEYS >> x > 1
    {
      // Of two lanes each keeps one half of the scores, and gives the other away.
      let upper = (unit & ${LANES >> (x + 1)}u) != 0u;
      //#for n in ROWS * KEYS >> (x + 1)
      {
        let given = select(s${n + (ROWS * KEYS >> (x + 1))}, s${n}, upper);
        s${n} = select(s${n}, s${n + (ROWS * KEYS >> (x + 1))}, upper) + subgroupShuffleXor(given, ${LANES >> (x + 1)}u);
      }
      //#endfor
    }
    //#else
    s0 += subgroupShuffleXor(s0, ${LANES >> (x + 1)}u);
    //#endif
    //#endfor
    var top = HIDDEN;
    //#for x in VALUES
    {
      let j = j0 + team + (key_slot + ${x}u) * ${TEAMS}u;
      //#if !RAW
      s${x} = score(head, s${x}, i, j);
      //#endif
      s${x} = select(s${x}, BAD, bad_row);
      //#if BAND || MASK
      s${x} = select(HIDDEN, s${x}, j < j1 && row < rows && visible(head, i, j));
      //#else
      s${x} = select(HIDDEN, s${x}, j < j1 && row < rows);
      //#endif
      top = max(top, s${x});
    }
    //#endfor

    // softmax: P = exp(S - m) [R, KEYS]
    //#for x in LOG_ROW_LANES
    top = max(top, subgroupShuffleXor(top, ${1 << x}u));
    //#endfor
    // All teams of a subgroup have the same max, so that their sums are added up as they are.
    //#for x in LOG_TEAMS
    top = max(top, subgroupShuffleXor(top, ${LANES << x}u));
    //#endfor
    if (subgroupAny(top > m)) {
      top = max(top, m);
      let alpha = weight(m, top);
      m = top;
      l *= alpha;
      //#for r in ROWS
      let alpha${r} = subgroupShuffle(alpha, first_lane + ${r * LANES / ROWS}u);
      //#for x in UNITS * UNIT / 4
      acc${r}_${x} *= alpha${r};
      //#endfor
      //#endfor
    }
    //#for x in VALUES
    s${x} = weight(s${x}, m);
    l += s${x};
    //#if DROPOUT
    s${x} = select(0.0, s${x}, dropout_factor(head, i, j0 + team + (key_slot + ${x}u) * ${TEAMS}u) != 0.0);
    //#endif
    //#endfor

    // accumulate: acc += P v [R, Dv]
    {
      var watched = vec4u();
      //#for n in KEYS
      //#for u in UNITS
      watched = watch(watched, v${n}_${u});
      //#endfor
      //#endfor
      if (was_bad(watched)) {
        bad_values = true;
        //#for n in KEYS
        //#for u in UNITS
        v${n}_${u} &= ~nonfinite_elements(v${n}_${u});
        //#endfor
        //#endfor
      }
    }
    //#for n in KEYS
    {
      //#for x in UNITS * UNIT / 4
      let v_part${x} = unit_vector(v${n}_${4 * x / UNIT}, ${x % (UNIT / 4)}u);
      //#endfor
      //#for r in ROWS
      let p${r} = vec4f(subgroupShuffle(s${(r * KEYS + n) % VALUES}, first_lane + ${(r * KEYS + n) / VALUES * COPIES}u));
      //#for x in UNITS * UNIT / 4
      acc${r}_${x} = fma(p${r}, v_part${x}, acc${r}_${x});
      //#endfor
      //#endfor
    }
    //#endfor
    // The next values are on their way from here on.
    //#if SKIP
    if (j1 < end) {
    //#else
    {
    //#endif
      //#for n in KEYS
      //#for u in UNITS
      v${n}_${u} = fetch_v(v_at, min(j1 + team + ${n * TEAMS}u, last), (unit + ${u * LANES}u) * ${UNIT}u);
      //#endfor
      //#endfor
    }
  }

  // What the lanes of a subgroup met is looked for once more, and whom it makes NaN: here, so that the loop is short.
  if (subgroupAny(bad_keys || bad_values)) {
    mark_nonfinite(Group(b, h, first_row, rows), k_at, v_at, begin, end, team, unit);
  }

  // finish: m, l [R] and acc [R, Dv] of all subgroups are a part
  //#for x in LOG_ROW_LANES
  //#if 1 << x >= COPIES
  l += subgroupShuffleXor(l, ${1 << x}u);
  //#endif
  //#endfor
  //#for x in LOG_TEAMS
  {
    let other = lane ^ ${LANES << x}u;
    l += subgroupShuffle(l, other);
    //#for r in ROWS
    //#for y in UNITS * UNIT / 4
    acc${r}_${y} += subgroupShuffle(acc${r}_${y}, other);
    //#endfor
    //#endfor
  }
  //#endfor
  if (slot < ${LANES}u) {
    //#for r in ROWS
    //#for x in UNITS * UNIT / 4
    acc_smem[(own * ${ROWS}u + ${r}u) * ${VECTORS}u + (unit + ${4 * x / UNIT * LANES}u) * ${UNIT / 4}u + ${x % (UNIT / 4)}u] = acc${r}_${x};
    //#endfor
    //#endfor
    if (unit % ${LANES / ROWS}u == 0u) {
      sums_smem[row * ${SUBGROUPS}u + own] = vec2f(m, l);
    }
  }
  workgroupBarrier();
  let block_index = (b * args.key_heads + kv_head) * ${BLOCKS}u + block;
  // A subgroup has a chunk at a time: a column of one row each lane. All chunks that there are have been written before one is counted.
  // Where there is none shuffles run all the same: a branch round them costs more.
  for (var turn = 0u; turn < ${(CHUNKS + SUBGROUPS - 1) / SUBGROUPS}u; turn++) {
    let place = chunk_of(turn, own, slot, rows);
    //#for w in OWN_SHARES
    let sums${w} = sums_smem[place.r * ${SUBGROUPS}u + slot % ${SUBGROUPS / OWN_SHARES}u + ${w * SUBGROUPS / OWN_SHARES}u];
    //#endfor
    var top = sums0.x;
    //#for w in OWN_SHARES - 1
    top = max(top, sums${w + 1}.x);
    //#endfor
    //#for x in LOG_OWN
    top = max(top, subgroupShuffleXor(top, ${1 << x}u));
    //#endfor
    var sum = 0.0;
    //#for w in OWN_SHARES
    let weight${w} = weight(sums${w}.x, top);
    sum += weight${w} * sums${w}.y;
    //#endfor
    //#for x in LOG_OWN
    sum += subgroupShuffleXor(sum, ${1 << x}u);
    //#endfor
    var acc = 0.0;
    //#for x in SUBGROUPS
    acc = fma(
      subgroupShuffle(weight${x / (SUBGROUPS / OWN_SHARES)}, lane - slot + ${x % (SUBGROUPS / OWN_SHARES)}u),
      acc_smem[(${x * ROWS}u + place.r) * ${VECTORS}u + place.column / 4u][place.column % 4u],
      acc,
    );
    //#endfor
    let bit = place.r * ${COLUMNS}u + place.column;
    let bad = ((atomicLoad(&bad_out_smem[bit / 32u]) >> (bit % 32u)) & 1u) != 0u;
    let bad_row = ((atomicLoad(&bad_rows_smem) >> place.r) & 1u) != 0u;
    if (place.there) {
      leave_chunk(chunk_at(block_index, place.n), split, slot, word_of(acc, bad), select(top, BAD, bad_row), sum);
    }
  }
  storageBarrier();
  let group = Group(b, h, first_row, rows);
  for (var turn = 0u; turn < ${(CHUNKS + SUBGROUPS - 1) / SUBGROUPS}u; turn++) {
    let place = chunk_of(turn, own, slot, rows);
    join_chunk(group, block_index * ${CHUNKS}u + place.n, chunk_at(block_index, place.n), place, lane, slot);
  }
}
