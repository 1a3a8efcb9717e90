// Attention of few query rows that share a key head, as when a model writes its text: the rows of all query heads of the group
// are taken together, so that k and v are read once, and the keys are split over workgroups. What each of them leaves of its
// keys, a part, is joined with the others' by whichever workgroup comes last, in the order of the keys.
//
// Row r of the R = Sq H / Hkv rows is query row r % Sq of head r / Sq of the group. Scores of four rows lie in one vector.
// For q k^T, LANES threads share a key, each with every LANES-th unit of its row. For P v, a thread has one unit of the columns
// and every key of its group, and a group of keys has an m, l and acc of its own until the end: so a tile takes two barriers.

//#include "lib/launch.wgsl"
//#include "lib/score.wgsl"
//#include "lib/rows.wgsl"
//#include "lib/decode.wgsl"

// q transposed [D, R], four rows a vector, QS vectors a unit: one more than there are spreads them over the banks. In the end
// acc of four rows, a vector a column. D is at most DEPTH, Dv at most COLUMNS.
var<workgroup> q_smem: array<vec4f, ${Q_VECTORS}>;
// Products [LANES, KEYS] of four rows; in the end sums on their way between threads.
var<workgroup> sums_smem: array<vec4f, ${SUMS}>;
// Scores [KEYS, R].
var<workgroup> s_smem: array<vec4f, ${KEYS * ROWS4}>;
// m and l of four rows, of groups of keys.
var<workgroup> m_smem: array<vec4f, ${GROUPS}>;
var<workgroup> l_smem: array<vec4f, ${GROUPS}>;
// Bits: rows whose q is not finite, keys of this tile and of the next whose k is not, elements of acc whose row sees such an
// element of v.
var<workgroup> bad_rows_smem: atomic<u32>;
var<workgroup> bad_keys_smem: array<atomic<u32>, ${2 * KEY_WORDS}>;
var<workgroup> bad_out_smem: array<atomic<u32>, ${4 * ROWS4 * COLUMNS / 32}>;
//#if DROPOUT
// Bits of rows that keep a key.
var<workgroup> kept_smem: array<u32, ${KEYS}>;
//#endif

//#include "lib/finish.wgsl"
//#include "lib/parts.wgsl"
//#include "lib/join.wgsl"

// Marks elements of acc whose row sees an element of v, `bad` bits of column d on, that is not finite.
fn mark_values(b: u32, h: u32, j: u32, d: u32, bad: u32) {
  for (var r = 0u; r < args.rows * args.group; r++) {
    if (visible(head_of(b, h + r / args.rows), r % args.rows, j)) {
      atomicOr(&bad_out_smem[r * ${COLUMNS / 32}u + d / 32u], bad << (d % 32u));
    }
  }
}

@compute @workgroup_size(${THREADS})
fn main(
  @builtin(workgroup_id) id: vec3u,
  @builtin(num_workgroups) count: vec3u,
  @builtin(local_invocation_index) thread: u32,
) {
  // setup: q [R, D]; m, l [R] and acc [R, Dv] of each group of keys
  let place = workgroup_place(args.launch, id, count, vec2u(args.splits, args.heads));
  if (place.z == NOWHERE) {
    return;
  }
  let split = place.x;
  let kv_head = args.head_from + place.y;
  let b = args.batch_from + place.z;
  let h = kv_head * args.group;
  let rows = args.rows * args.group;
  let feature_units = (args.depth + ${UNIT - 1}u) / ${UNIT}u;
  let column_units = (args.columns + ${UNIT - 1}u) / ${UNIT}u;
  let groups = min(${THREADS}u / column_units, ${KEYS}u);
  // Threads of q k^T have keys thread / LANES and so on; those of P v have one unit of the columns.
  let lane = thread % ${LANES}u;
  let first_key = thread / ${LANES}u;
  let column = thread % column_units * ${UNIT}u;
  let key_group = thread / column_units;
  let k_at = b * args.k_batch + kv_head * args.k_head - args.k_first;
  let v_at = b * args.v_batch + kv_head * args.v_head - args.v_first;
  let seen = key_range(0u, args.rows - 1u, args.keys);
  let begin = min(seen.begin + split * args.split_keys, seen.end);
  let end = min(begin + args.split_keys, seen.end);
  // Read in the place of those behind it, which are hidden.
  let last = max(end, 1u) - 1u;
  // The first keys and values are on their way while q is staged.
  //#for t in BATCH_K
  //#for n in KEYS_K
  var k${t}_${n} = fetch_k(k_at, min(begin + first_key + ${n * THREADS / LANES}u, last), lane + ${t * LANES}u);
  //#endfor
  //#endfor
  //#for n in BATCH_V
  var v${n} = fetch_v(v_at, min(begin + key_group + ${n}u * groups, last), column);
  //#endfor
  for (var n = thread; n < feature_units * ${ROWS4}u; n += ${THREADS}u) {
    let d = n / ${ROWS4}u * ${UNIT}u;
    //#for x in 4
    let r${x} = n % ${ROWS4}u * 4u + ${x}u;
    let at${x} = b * args.q_batch + (h + r${x} / args.rows) * args.q_head + r${x} % args.rows * args.q_row - args.q_first;
    var unit${x} = load_q(at${x} + d, select(0u, elements_at(d, args.depth), r${x} < rows));
    if (any(nonfinite4(${DTYPE}u, unit${x}) != vec4u())) {
      atomicOr(&bad_rows_smem, 1u << r${x});
      unit${x} &= ~nonfinite_elements(unit${x});
    }
    //#endfor
    //#for part in UNIT / 4
    {
      //#for x in 4
      let x${x} = unit_vector(unit${x}, ${part}u) * SIGN;
      //#endfor
      //#for e in 4
      q_smem[n / ${ROWS4}u * ${QS}u + ${(4 * part + e) * ROWS4}u + n % ${ROWS4}u] = vec4f(x0[${e}], x1[${e}], x2[${e}], x3[${e}]);
      //#endfor
    }
    //#endfor
  }
  //#for r in ROWS4
  var m${r} = vec4f(HIDDEN);
  var l${r} = vec4f();
  //#for e in UNIT
  var acc${r}_${e} = vec4f();
  //#endfor
  //#endfor
  workgroupBarrier();

  // Which half of bad_keys_smem is this tile's.
  var flags = 0u;
  for (var j0 = begin; j0 < end; j0 += args.tile_kv) {
    let j1 = min(j0 + args.tile_kv, end);
    // load, scores: S = q k^T [R, KEYS], each thread its share of the features
    //#for n in KEYS_K
    //#for r in ROWS4
    var s${n}_${r} = vec4f();
    //#endfor
    //#endfor
    //#if K_ROUNDS == 1
    {
      let first = lane;
    //#else
    for (var first = lane; first < feature_units; first += ${LANES * BATCH_K}u) {
      if (first != lane) {
        //#for t in BATCH_K
        //#for n in KEYS_K
        k${t}_${n} = fetch_k(k_at, min(j0 + first_key + ${n * THREADS / LANES}u, last), first + ${t * LANES}u);
        //#endfor
        //#endfor
      }
    //#endif
      //#for n in KEYS_K
      {
        var watched = vec4u();
        //#for t in BATCH_K
        watched = watch(watched, k${t}_${n});
        //#endfor
        if (was_bad(watched)) {
          let c = first_key + ${n * THREADS / LANES}u;
          atomicOr(&bad_keys_smem[flags + c / 32u], 1u << (c % 32u));
          //#for t in BATCH_K
          k${t}_${n} &= ~nonfinite_elements(k${t}_${n});
          //#endfor
        }
      }
      //#endfor
      // Behind D k and q are 0.
      //#for t in BATCH_K
        //#for part in UNIT / 4
        {
          //#for n in KEYS_K
          let x${n} = unit_vector(k${t}_${n}, ${part}u);
          //#endfor
          //#for e in 4
          //#for r in ROWS4
          {
            let y = q_smem[(first + ${t * LANES}u) * ${QS}u + ${(4 * part + e) * ROWS4 + r}u];
            //#for n in KEYS_K
            s${n}_${r} = fma(vec4f(x${n}[${e}]), y, s${n}_${r});
            //#endfor
          }
          //#endfor
          //#endfor
        }
        //#endfor
      //#endfor
    }
    // The next keys are on their way from here on.
    //#for t in BATCH_K
    //#for n in KEYS_K
    k${t}_${n} = fetch_k(k_at, min(j1 + first_key + ${n * THREADS / LANES}u, last), lane + ${t * LANES}u);
    //#endfor
    //#endfor
    //#for r in ROWS4
    //#if r > 0
    workgroupBarrier();
    //#endif
    //#for n in KEYS_K
    sums_smem[lane * ${KEYS}u + first_key + ${n * THREADS / LANES}u] = s${n}_${r};
    //#endfor
    workgroupBarrier();
    for (var c = thread; c < ${KEYS}u; c += ${THREADS}u) {
      var s = sums_smem[c];
      //#for x in LANES - 1
      s += sums_smem[${(x + 1) * KEYS}u + c];
      //#endfor
      let j = j0 + c;
      let bad_key = (atomicLoad(&bad_keys_smem[flags + c / 32u]) & (1u << (c % 32u))) != 0u;
      let bad = select(atomicLoad(&bad_rows_smem) >> ${4 * r}u, 15u, bad_key);
      //#if RAW && !MASK
      if ((bad & 15u) != 0u || j < seen.full_begin || j >= min(j1, seen.full_end)) {
      //#else
      {
      //#endif
        //#for x in 4
        {
          let row = ${4 * r + x}u;
          let head = head_of(b, h + row / args.rows);
          let i = row % args.rows;
          //#if !RAW
          s[${x}] = score(head, s[${x}], i, j);
          //#endif
          s[${x}] = select(s[${x}], BAD, (bad & (1u << ${x}u)) != 0u);
          s[${x}] = select(HIDDEN, s[${x}], j < j1 && row < rows && visible(head, i, j));
        }
        //#endfor
      }
      s_smem[c * ${ROWS4}u + ${r}u] = s;
    }
    //#endfor
    //#if DROPOUT
    for (var c = thread; c < ${KEYS}u; c += ${THREADS}u) {
      var kept = 0u;
      for (var row = 0u; row < rows; row++) {
        let factor = dropout_factor(head_of(b, h + row / args.rows), row % args.rows, j0 + c);
        kept |= select(0u, 1u << row, factor != 0.0);
      }
      kept_smem[c] = kept;
    }
    //#endif
    // The next tile's flags: nobody has looked at them since the tile before.
    if (thread < ${KEY_WORDS}u) {
      atomicStore(&bad_keys_smem[${KEY_WORDS}u - flags + thread], 0u);
    }
    workgroupBarrier();

    // softmax: P = exp(S - m) [R, KEYS]; accumulate: acc += P v [R, Dv]; each thread the keys of its group
    if (key_group < groups) {
      //#if V_ROUNDS == 1
      {
        let batch = 0u;
      //#else
      for (var batch = 0u; batch * groups < ${KEYS}u; batch += ${BATCH_V}u) {
        if (batch > 0u) {
          //#for n in BATCH_V
          v${n} = fetch_v(v_at, min(j0 + key_group + (batch + ${n}u) * groups, last), column);
          //#endfor
        }
      //#endif
        //#for n in BATCH_V
        let c${n} = key_group + (batch + ${n}u) * groups;
        let at${n} = min(c${n}, ${KEYS - 1}u);
        //#endfor
        //#for r in ROWS4
        //#for n in BATCH_V
        var p${n}_${r} = select(vec4f(HIDDEN), s_smem[at${n} * ${ROWS4}u + ${r}u], c${n} < ${KEYS}u);
        //#endfor
        {
          var top = m${r};
          //#for n in BATCH_V
          top = max(top, p${n}_${r});
          //#endfor
          if (any(top > m${r})) {
            let alpha = select(exp2((subtrahend(m${r}) - top) * args.to_exponent), vec4f(), m${r} == vec4f(HIDDEN));
            l${r} *= alpha;
            //#for e in UNIT
            acc${r}_${e} *= alpha;
            //#endfor
            m${r} = top;
          }
        }
        //#for n in BATCH_V
        p${n}_${r} = select(exp2((p${n}_${r} - m${r}) * args.to_exponent), vec4f(), p${n}_${r} == vec4f(HIDDEN));
        l${r} += p${n}_${r};
        //#if DROPOUT
        p${n}_${r} = select(vec4f(), p${n}_${r}, (vec4u(kept_smem[at${n}] >> ${4 * r}u) & vec4u(1u, 2u, 4u, 8u)) != vec4u());
        //#endif
        //#endfor
        //#endfor
        {
          var watched = vec4u();
          //#for n in BATCH_V
          watched = watch(watched, v${n});
          //#endfor
          if (was_bad(watched)) {
            //#for n in BATCH_V
            v${n} &= ~nonfinite_elements(v${n});
            //#endfor
            for (var n = batch; n < batch + ${BATCH_V}u; n++) {
              let j = j0 + key_group + n * groups;
              if (j < j1) {
                mark_values(b, h, j, column, bad_elements(load_v(v_at + j * args.v_row + column, elements_at(column, args.columns))));
              }
            }
          }
        }
        //#for n in BATCH_V
        {
          //#for part in UNIT / 4
          let x${part} = unit_vector(v${n}, ${part}u);
          //#endfor
          //#for r in ROWS4
          //#for e in UNIT
          acc${r}_${e} = fma(p${n}_${r}, vec4f(x${e / 4}[${e % 4}]), acc${r}_${e});
          //#endfor
          //#endfor
        }
        //#endfor
      }
    }
    // The next values are on their way from here on.
    //#for n in BATCH_V
    v${n} = fetch_v(v_at, min(j1 + key_group + ${n}u * groups, last), column);
    //#endfor
    flags = ${KEY_WORDS}u - flags;
  }

  // finish: acc [R, Dv], m and l [R] of all groups of keys are a part
  let group = Group(b, h, rows, (args.columns + 3u) / 4u);
  let head_index = b * args.key_heads + kv_head;
  let parts_at = args.parts_first + head_index * args.parts * part_words(group);
  //#for r in ROWS4
  {
    workgroupBarrier();
    if (key_group < groups && column == 0u) {
      m_smem[key_group] = m${r};
    }
    workgroupBarrier();
    var top = vec4f(HIDDEN);
    for (var n = 0u; n < groups; n++) {
      top = max(top, m_smem[n]);
    }
    let share = weight4(m${r}, top);
    if (key_group < groups && column == 0u) {
      l_smem[key_group] = l${r} * share;
    }
    //#for turn in UNIT / TURN
    //#if turn > 0
    workgroupBarrier();
    //#endif
    //#for e in TURN
    sums_smem[thread * ${TURN}u + ${e}u] = acc${r}_${turn * TURN + e} * share;
    //#endfor
    workgroupBarrier();
    for (var n = thread; n < column_units * ${TURN}u; n += ${THREADS}u) {
      var x = vec4f();
      for (var each = 0u; each < groups; each++) {
        x += sums_smem[each * column_units * ${TURN}u + n];
      }
      q_smem[n / ${TURN}u * ${UNIT}u + ${turn * TURN}u + n % ${TURN}u] = x;
    }
    //#endfor
    workgroupBarrier();
    var l = vec4f();
    for (var n = 0u; n < groups; n++) {
      l += l_smem[n];
    }
    for (var n = thread; n < 4u * group.vectors; n += ${THREADS}u) {
      let x = n / group.vectors;
      let row = ${4 * r}u + x;
      let d = (n - x * group.vectors) * 4u;
      if (row < rows) {
        let bad = (atomicLoad(&bad_out_smem[row * ${COLUMNS / 32}u + d / 32u]) >> (d % 32u)) & 15u;
        let acc = vec4f(q_smem[d][x], q_smem[d + 1u][x], q_smem[d + 2u][x], q_smem[d + 3u][x]);
        let words = words_of(acc, (vec4u(bad) & vec4u(1u, 2u, 4u, 8u)) != vec4u());
        let m_x = select(select(top.x, top.y, x == 1u), select(top.z, top.w, x == 3u), x > 1u);
        let l_x = select(select(l.x, l.y, x == 1u), select(l.z, l.w, x == 3u), x > 1u);
        leave(group, parts_at + split * part_words(group), n + ${4 * r}u * group.vectors, row, Joined(words, m_x, l_x));
      }
    }
  }
  //#endfor
  join_parts(group, thread, split, head_index * args.counters, parts_at);
}
