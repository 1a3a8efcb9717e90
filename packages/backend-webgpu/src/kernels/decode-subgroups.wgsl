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

// Of subgroups: acc [SUBGROUPS, ROWS, Dv] as float32 bits, m and l [SUBGROUPS, ROWS]. In the end what threads have joined.
var<workgroup> bits_smem: array<vec4u, ${ACC_VECTORS}>;
var<workgroup> m_smem: array<f32, ${SUBGROUPS * ROWS}>;
var<workgroup> l_smem: array<f32, ${SUBGROUPS * ROWS}>;
// Bits: elements of acc whose row sees an element of v that is not finite.
var<workgroup> bad_out_smem: array<atomic<u32>, ${ROWS * COLUMNS / 32}>;

//#include "lib/finish.wgsl"
//#include "lib/parts.wgsl"

// P of a score, or what a smaller max weighs.
fn weight(x: f32, m: f32) -> f32 {
  return select(exp2((x - m) * args.to_exponent), 0.0, x == HIDDEN);
}

@compute @workgroup_size(${THREADS})
fn main(
  @builtin(workgroup_id) id: vec3u,
  @builtin(num_workgroups) count: vec3u,
  @builtin(local_invocation_index) thread: u32,
  @builtin(subgroup_id) subgroup: u32,
  @builtin(subgroup_size) size: u32,
  @builtin(subgroup_invocation_id) lane: u32,
) {
  // setup: q [R, D]; m, l [R] and acc [R, Dv] of each team
  let index = workgroup_index(args.launch, id, count);
  if (index >= args.launch.end) {
    return;
  }
  let split = index % args.splits;
  let kv_head = args.head_from + index / args.splits % args.heads;
  let b = args.batch_from + index / args.splits / args.heads;
  let h = kv_head * args.group;
  let rows = args.rows * args.group;
  let own = min(subgroup, ${SUBGROUPS - 1}u);
  let unit = lane % ${LANES}u;
  let team = own * (size / ${LANES}u) + lane / ${LANES}u;
  let first_lane = lane - unit;
  // Lane `unit` of a team has row `row` and keys key_slot to key_slot + VALUES - 1 of the KEYS keys.
  let row = unit / ${LANES / ROWS}u;
  let key_slot = unit % ${LANES / ROWS}u / ${COPIES}u * ${VALUES}u;
  let head = head_of(b, h + min(row, rows - 1u) / args.rows);
  let i = row % args.rows;
  let k_at = b * args.k_batch + kv_head * args.k_head - args.k_first;
  let v_at = b * args.v_batch + kv_head * args.v_head - args.v_first;
  let seen = key_range(0u, args.rows - 1u, args.keys);
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
  var bad_rows = 0u;
  //#for r in ROWS
  //#for u in UNITS
  let d${r}_${u} = (unit + ${u * LANES}u) * ${UNIT}u;
  let at${r}_${u} = b * args.q_batch + (h + ${r}u / args.rows) * args.q_head + ${r}u % args.rows * args.q_row - args.q_first;
  var unit${r}_${u} = load_q(at${r}_${u} + d${r}_${u}, select(0u, elements_at(d${r}_${u}, args.depth), ${r}u < rows));
  bad_rows |= select(0u, ${1 << r}u, any(nonfinite4(${DTYPE}u, unit${r}_${u}) != vec4u()));
  unit${r}_${u} &= ~nonfinite_elements(unit${r}_${u});
  //#for part in UNIT / 4
  let q${r}_${u * UNIT / 4 + part} = unit_vector(unit${r}_${u}, ${part}u) * SIGN;
  //#endfor
  //#endfor
  //#endfor
  //#for x in LOG_LANES
  bad_rows |= subgroupShuffleXor(bad_rows, ${1 << x}u);
  //#endfor
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
    var bad_keys = 0u;
    {
      var watched = vec4u();
      //#for n in KEYS
      //#for u in UNITS
      watched = watch(watched, k${n}_${u});
      //#endfor
      //#endfor
      if (subgroupAny(was_bad(watched))) {
        //#for n in KEYS
        {
          var watched_key = vec4u();
          //#for u in UNITS
          watched_key = watch(watched_key, k${n}_${u});
          k${n}_${u} &= ~nonfinite_elements(k${n}_${u});
          //#endfor
          bad_keys |= select(0u, ${1 << n}u, was_bad(watched_key));
        }
        //#endfor
        //#for x in LOG_LANES
        bad_keys |= subgroupShuffleXor(bad_keys, ${1 << x}u);
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
    //#for n in KEYS
    //#for u in UNITS
    k${n}_${u} = fetch_k(k_at, min(j1 + team + ${n * TEAMS}u, last), unit + ${u * LANES}u);
    //#endfor
    //#endfor
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
      let bad = (((bad_rows >> row) | (bad_keys >> (key_slot + ${x}u))) & 1u) != 0u;
      s${x} = select(s${x}, BAD, bad);
      s${x} = select(HIDDEN, s${x}, j < j1 && row < rows && visible(head, i, j));
      top = max(top, s${x});
    }
    //#endfor

    // softmax: P = exp(S - m) [R, KEYS]
    //#for x in LOG_ROW_LANES
    top = max(top, subgroupShuffleXor(top, ${1 << x}u));
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
        //#for n in KEYS
        //#for u in UNITS
        v${n}_${u} &= ~nonfinite_elements(v${n}_${u});
        //#endfor
        //#endfor
        for (var n = 0u; n < ${KEYS * UNITS}u; n++) {
          let j = j0 + team + n / ${UNITS}u * ${TEAMS}u;
          let column = (unit + n % ${UNITS}u * ${LANES}u) * ${UNIT}u;
          if (j < j1) {
            mark_values(b, h, j, column, bad_elements(load_v(v_at + j * args.v_row + column, elements_at(column, args.columns))));
          }
        }
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
    //#for n in KEYS
    //#for u in UNITS
    v${n}_${u} = fetch_v(v_at, min(j1 + team + ${n * TEAMS}u, last), (unit + ${u * LANES}u) * ${UNIT}u);
    //#endfor
    //#endfor
  }

  // finish: m, l [R] and acc [R, Dv] of all teams are a part; first those of each subgroup
  //#for x in LOG_ROW_LANES
  //#if 1 << x >= COPIES
  l += subgroupShuffleXor(l, ${1 << x}u);
  //#endif
  //#endfor
  for (var apart = ${LANES}u; apart < size; apart *= 2u) {
    let top = max(m, subgroupShuffleXor(m, apart));
    let alpha = weight(m, top);
    m = top;
    l *= alpha;
    l += subgroupShuffleXor(l, apart);
    //#for r in ROWS
    let alpha${r} = subgroupShuffle(alpha, first_lane + ${r * LANES / ROWS}u);
    //#for x in UNITS * UNIT / 4
    acc${r}_${x} *= alpha${r};
    acc${r}_${x} += subgroupShuffleXor(acc${r}_${x}, apart);
    //#endfor
    //#endfor
  }
  if (first_lane == 0u) {
    //#for r in ROWS
    //#for x in UNITS * UNIT / 4
    bits_smem[(own * ${ROWS}u + ${r}u) * ${VECTORS}u + (unit + ${4 * x / UNIT * LANES}u) * ${UNIT / 4}u + ${x % (UNIT / 4)}u] = bitcast<vec4u>(acc${r}_${x});
    //#endfor
    //#endfor
    if (unit % ${LANES / ROWS}u == 0u) {
      m_smem[own * ${ROWS}u + row] = m;
      l_smem[own * ${ROWS}u + row] = l;
    }
  }
  workgroupBarrier();
  let group = Group(b, h, rows, (args.columns + 3u) / 4u);
  let head_index = b * args.key_heads + kv_head;
  let parts_at = args.parts_first + head_index * args.parts * part_words(group);
  // Where subgroups are larger than they may be there are fewer.
  let subgroups = ${THREADS}u / size;
  for (var n = thread; n < rows * group.vectors; n += ${THREADS}u) {
    let r = n / group.vectors;
    let d = (n - r * group.vectors) * 4u;
    var top = HIDDEN;
    //#for x in SUBGROUPS
    let m${x} = select(HIDDEN, m_smem[${x * ROWS}u + r], ${x}u < subgroups);
    top = max(top, m${x});
    //#endfor
    var sum = 0.0;
    var acc = vec4f();
    //#for x in SUBGROUPS
    {
      let share = weight(m${x}, top);
      sum = fma(share, l_smem[${x * ROWS}u + r], sum);
      acc = fma(vec4f(share), bitcast<vec4f>(bits_smem[${x * ROWS * VECTORS}u + r * ${VECTORS}u + d / 4u]), acc);
    }
    //#endfor
    let bad = (atomicLoad(&bad_out_smem[r * ${COLUMNS / 32}u + d / 32u]) >> (d % 32u)) & 15u;
    let bits = vec4u(finite_or_nan(acc.x), finite_or_nan(acc.y), finite_or_nan(acc.z), finite_or_nan(acc.w));
    let marked = select(bits, vec4u(0x7fc00000u), (vec4u(bad) & vec4u(1u, 2u, 4u, 8u)) != vec4u());
    leave(group, parts_at + split * part_words(group), n, r, Joined(marked, top, sum));
  }
  join_parts(group, thread, split, head_index * args.counters, parts_at);
}
