-- What tasks take out of the limits of their key (its account), and what becomes of it at their end.
-- A bucket is two fields of a hash: what was left in it, and when. It is full where nobody has taken from it, and fills up
-- evenly within its window. An account's hash has two of them, and the tokens of one day.
local MINUTE_MS, DAY_MS = 60000, 86400000
local USAGE_MS = 40 * DAY_MS
local ROUNDING = 0.001

local function day_of(now) return string.format('%d', math.floor(now / DAY_MS)) end

local function left_in(hash, bucket, most, window_ms, now)
  local r = redis.call('HMGET', hash, bucket, bucket .. '_at')
  if not r[1] then return most end
  return math.min(most, tonumber(r[1]) + math.max(0, now - tonumber(r[2])) * most / window_ms)
end

local function leave_in(hash, bucket, left, now)
  redis.call('HSET', hash, bucket, string.format('%.4f', left), bucket .. '_at', now)
end

-- What the task at hand takes: all of it, or nothing. The first write is one that Redis refuses when it has no memory:
-- behind another one it would let all pass. Answers a refusal {'limit', which, the limit, milliseconds until
-- there is enough or -1} or nil; and what is then left of requests and of tokens, each with the milliseconds until its
-- bucket is full.
local function charge(tenant, now, orphan_ms) -- without orphan_ms there is no task, and only rates count
  local name = args.account
  local account = name and key('account', name)
  local reserved = tonumber(args.prompt_expected or 0) + tonumber(args.answer_expected or 0)
  local rate = {hash = key('rate', tenant), name = 'requests', which = 'tenant_rate', most = tonumber(args.tenant_rate),
    window = tonumber(args.tenant_rate_ms), need = 1}
  local requests = {hash = account, name = 'requests', which = 'requests_per_minute',
    most = tonumber(args.requests_per_minute), window = MINUTE_MS, need = 1}
  local tokens = {hash = account, name = 'tokens', which = 'tokens_per_minute',
    most = orphan_ms and tonumber(args.tokens_per_minute), window = MINUTE_MS, need = reserved}
  local sets = {unfinished_tasks = key('account_tasks', name or ''), waiting_tasks = key('account_waiting', name or '')}

  local refusal
  local function refuse(which, most, wait_ms) refusal = refusal or {'limit', which, most, wait_ms} end
  for which, set in pairs(name and sets or {}) do
    local most = orphan_ms and tonumber(args[which])
    -- Not those whose records are gone.
    if most and redis.call('ZCOUNT', set, now, '+inf') >= most then refuse(which, most, -1) end
  end
  for _, b in ipairs({rate, requests, tokens}) do
    if b.most then
      b.left = left_in(b.hash, b.name, b.most, b.window, now)
      if b.left + ROUNDING < b.need then refuse(b.which, b.most, math.ceil((b.need - b.left) * b.window / b.most)) end
    end
  end
  local today, per_day, spent = day_of(now), orphan_ms and tonumber(args.tokens_per_day), 0
  if account then
    local r = redis.call('HMGET', account, 'day', 'day_tokens')
    if r[1] == today then spent = tonumber(r[2]) end
    if per_day and spent + reserved > per_day then refuse('tokens_per_day', per_day, DAY_MS - now % DAY_MS) end
  end

  if not refusal then
    for _, b in ipairs({rate, requests, tokens}) do
      if b.most then
        b.left = b.left - b.need
        leave_in(b.hash, b.name, b.left, now)
        redis.call('PEXPIRE', b.hash, b.window)
      end
    end
    if account and orphan_ms then
      redis.call('HSET', account, 'day', today, 'day_tokens', spent + reserved)
      redis.call('PEXPIRE', account, 2 * DAY_MS)
      for _, set in pairs(sets) do
        redis.call('ZADD', set, now + orphan_ms, id)
        redis.call('ZREMRANGEBYSCORE', set, '-inf', now)
        redis.call('PEXPIRE', set, math.max(orphan_ms, redis.call('PTTL', set)))
      end
      redis.call('HSET', task, 'account', name, 'reserved', reserved, 'charged_on', today,
        'tokens_per_minute', args.tokens_per_minute or '')
    end
  end
  local left = {}
  for _, b in ipairs({requests, tokens}) do
    left[#left + 1] = b.most and math.floor(b.left + ROUNDING) or 0
    left[#left + 1] = b.most and math.ceil((b.most - b.left) * b.window / b.most) or 0
  end
  return refusal, left
end

-- The task at hand, of this account if of any, waits again, or no more.
local function count_waiting(name, waits)
  if not name then return end
  local unfinished, waiting = key('account_tasks', name), key('account_waiting', name)
  local until_ms = waits and redis.call('ZSCORE', unfinished, id)
  if until_ms then
    redis.call('ZADD', waiting, until_ms, id)
    redis.call('PEXPIRE', waiting, redis.call('PTTL', unfinished))
  else
    redis.call('ZREM', waiting, id)
  end
end

-- The task at hand ends: its account gets back what it has not used, and its tenant's use of the day is noted. Who ends
-- it well says how many tokens it had. Otherwise they are those of its stream, and of the prompt about as many as were
-- expected, once a worker has begun with it. Answers both.
local function settle(model, tenant, now)
  local r = redis.call('HMGET', task, 'attempt', 'tokens', 'prompt_expected', 'account', 'reserved', 'charged_on',
    'tokens_per_minute')
  local prompt, answer = tonumber(args.prompt_tokens), tonumber(args.answer_tokens)
  if not prompt then
    prompt, answer = 0, tonumber(r[2])
    if tonumber(r[1]) > 0 then
      local _, sequence = top()
      prompt = tonumber(r[3] or 0)
      if sequence < CLOSED then answer = math.max(answer, sequence) end
    end
  end
  local today = day_of(now)
  local usage = key('usage', tenant .. ':' .. today)
  redis.call('HINCRBY', usage, 'tasks ' .. model, 1)
  redis.call('HINCRBY', usage, 'prompt ' .. model, prompt)
  redis.call('HINCRBY', usage, 'answer ' .. model, answer)
  redis.call('PEXPIRE', usage, USAGE_MS)
  settle_flow(model, prompt + answer)
  local name = r[4]
  if not name then return prompt, answer end
  local account, per_minute = key('account', name), tonumber(r[7])
  redis.call('ZREM', key('account_tasks', name), id)
  redis.call('ZREM', key('account_waiting', name), id)
  local more = prompt + answer - tonumber(r[5]) -- than was reserved; mostly less
  if per_minute then
    leave_in(account, 'tokens', left_in(account, 'tokens', per_minute, MINUTE_MS, now) - more, now)
  end
  if redis.call('HGET', account, 'day') == r[6] then redis.call('HINCRBY', account, 'day_tokens', more) end
  redis.call('PEXPIRE', account, 2 * DAY_MS)
  return prompt, answer
end
