-- Which of a model's waiting tasks a free slot takes. A tenant's tasks of one class are a flow: first come, first served.
-- Of all flows with waiting tasks the one is next whose clock is behind: a clock advances by the tokens that its flow is
-- given, prompts and answers, divided by the flow's weight (start-time fair queueing: Goyal, Vin, Cheng, SIGCOMM 1996). A
-- flow that comes back after a pause starts where the others are: nobody saves up, and where nobody waits nobody is behind.
-- Tasks that were given back go first.
--   front:{model}   sorted set: given back, by acceptance     flows:{model}   sorted set: flows with waiting tasks, by clock
--   flow:{model:flow}  sorted set: its tasks, by acceptance   served:{model}  sorted set: others that are ahead, by clock
--   order:{model}   hash: weight of each flow that waits, and `now`: the clock of the flow that was served last
local CLASS_WEIGHTS = {high = 16, normal = 4, low = 1}
local UNKNOWN_TOKENS = 256 -- expected of an answer before the model has given any
local MOST_STALE = 1000 -- entries of tasks that wait no more, looked at in one step
local MOST_FLOWS = 1000 -- looked at for one place in the queue

local function flow_key(model, flow) return key('flow', model .. ':' .. flow) end

local function class_weight(flow) return CLASS_WEIGHTS[string.match(flow, '^[^:]*')] or 1 end

-- The clock of the flow that was served last, and the weight of this one.
local function read_order(model, flow)
  local r = redis.call('HMGET', key('order', model), 'now', 'weight ' .. flow)
  return tonumber(r[1] or 0), class_weight(flow) * tonumber(r[2] or 1)
end

-- The task at hand begins to wait in its flow.
local function enter_flow(model, flow, at, weight)
  redis.call('ZADD', flow_key(model, flow), at, id)
  if weight then redis.call('HSET', key('order', model), 'weight ' .. flow, weight) end
  if not redis.call('ZSCORE', key('flows', model), flow) then
    local now = read_order(model, flow)
    local clock = math.max(now, tonumber(redis.call('ZSCORE', key('served', model), flow) or 0))
    redis.call('ZADD', key('flows', model), clock, flow)
    redis.call('ZREM', key('served', model), flow)
  end
end

-- The task at hand waits no more, in its flow or in front of all.
local function leave_order(model, flow)
  if not flow or redis.call('ZREM', flow_key(model, flow), id) == 0 then
    redis.call('ZREM', key('front', model), id)
    return
  end
  if redis.call('EXISTS', flow_key(model, flow)) == 1 then return end
  local clock = redis.call('ZSCORE', key('flows', model), flow)
  redis.call('ZREM', key('flows', model), flow)
  if redis.call('EXISTS', key('flows', model)) == 0 then -- nobody is behind anybody
    redis.call('DEL', key('served', model), key('order', model))
    return
  end
  local now = read_order(model, flow)
  redis.call('HDEL', key('order', model), 'weight ' .. flow)
  if clock and tonumber(clock) > now then redis.call('ZADD', key('served', model), clock, flow) end
end

-- The weights of all of them, read at once.
local function weights(model)
  local fields, known = redis.call('HGETALL', key('order', model)), {}
  for at = 1, #fields, 2 do known[string.sub(fields[at], #'weight ' + 1)] = tonumber(fields[at + 1]) end
  return function(flow) return class_weight(flow) * (known[flow] or 1) end
end

-- Prompt and answer tokens of the model's mean task.
local function mean_tokens(model)
  local r = redis.call('HMGET', key('done', model), 'tasks', 'prompt_tokens', 'answer_tokens')
  local tasks = tonumber(r[1] or 0)
  if tasks == 0 or not r[3] then return UNKNOWN_TOKENS, UNKNOWN_TOKENS end
  return tonumber(r[2]) / tasks, tonumber(r[3]) / tasks
end

-- The task at hand is taken out of its flow, which is charged for what the task will probably need: the mean answer, for
-- the longest would keep the others of the flow waiting until it ends. `settle_flow` corrects it. Where no other task waits,
-- nobody is behind anybody. One that was given back is paid for, with its `flow_cost`.
local function serve_flow(model, flow, prompt_expected, answer_expected, flow_cost)
  if redis.call('EXISTS', key('waiting', model)) == 0 then
    redis.call('DEL', key('front', model), flow_key(model, flow), key('flows', model), key('served', model),
      key('order', model))
    return
  end
  local behind = not flow_cost and redis.call('ZRANGE', key('flows', model), 0, 0, 'WITHSCORES')
  -- Another flow is behind where it is passed by.
  if behind and (behind[1] == flow or redis.call('ZSCORE', key('flows', model), flow)) then
    local _, mean_answer = mean_tokens(model)
    local cost = math.max(1, tonumber(prompt_expected or 0) +
      math.min(tonumber(answer_expected or UNKNOWN_TOKENS), mean_answer))
    local now, weight = read_order(model, flow)
    if tonumber(behind[2]) > now then
      redis.call('HSET', key('order', model), 'now', behind[2])
      redis.call('ZREMRANGEBYSCORE', key('served', model), '-inf', behind[2]) -- as good as forgotten
    end
    redis.call('ZINCRBY', key('flows', model), cost / weight, flow)
    redis.call('HSET', task, 'flow_cost', cost, 'flow_weight', weight)
  end
  leave_order(model, flow)
end

-- The task at hand has ended, after so many tokens.
local function settle_flow(model, tokens)
  local r = redis.call('HMGET', task, 'flow', 'flow_cost', 'flow_weight')
  if not r[2] or redis.call('EXISTS', key('flows', model)) == 0 then return end
  local flow, more = r[1], (tokens - tonumber(r[2])) / tonumber(r[3])
  local now = read_order(model, flow)
  local clock = redis.call('ZSCORE', key('flows', model), flow)
  if clock then
    redis.call('ZADD', key('flows', model), math.max(now, tonumber(clock) + more), flow)
    return
  end
  clock = tonumber(redis.call('ZSCORE', key('served', model), flow) or now) + more
  redis.call('ZREM', key('served', model), flow)
  if clock > now then redis.call('ZADD', key('served', model), clock, flow) end
end

-- The first of a list that really waits; entries of tasks whose records are gone, or are none, are taken out.
local function first_waiting(list)
  for _ = 1, MOST_STALE do
    local first = redis.call('ZRANGE', list, 0, 0)[1]
    if not first then return end
    if redis.pcall('HGET', key('task', first), 'state') == 'waiting' then return first end
    redis.call('ZREM', list, first)
  end
end

-- The id of the task that a free slot takes; nil when none waits.
local function next_waiting(model)
  local first = first_waiting(key('front', model))
  for _ = 1, MOST_STALE do
    if first then return first end
    local flow = redis.call('ZRANGE', key('flows', model), 0, 0)[1]
    if not flow then return end
    first = first_waiting(flow_key(model, flow))
    if not first then redis.call('ZREM', key('flows', model), flow) end
  end
end

-- How many waiting tasks are to be taken up to this one, itself included, if none comes and all need the same tokens; nil
-- for one that does not wait. `known`: what one script has read for other places of the same model; a table of `tasks` first.
local function place_of(model, waiting_id, known)
  local rank = redis.call('ZRANK', key('front', model), waiting_id)
  if rank then return rank + 1 end
  local flow = redis.pcall('HGET', key('task', waiting_id), 'flow')
  if type(flow) ~= 'string' then return end
  rank = redis.call('ZRANK', flow_key(model, flow), waiting_id)
  local clock = rank and redis.call('ZSCORE', key('flows', model), flow)
  if not clock then return end
  if not known.mean then
    local prompt, answer = mean_tokens(model)
    known.mean = math.max(1, prompt + answer)
    known.weights = weights(model)
    known.front = redis.call('ZCARD', key('front', model))
  end
  local turn = tonumber(clock) + rank * known.mean / known.weights(flow)
  local place = known.front + rank + 1
  local before = redis.call('ZRANGE', key('flows', model), '-inf', turn, 'BYSCORE', 'LIMIT', 0, MOST_FLOWS, 'WITHSCORES')
  for at = 1, #before, 2 do
    local other = before[at]
    if other ~= flow then
      local ahead = (turn - tonumber(before[at + 1])) * known.weights(other) / known.mean
      local count = math.ceil(ahead)
      if count == ahead and other < flow then count = count + 1 end
      if count > 1 then -- a flow has one at least
        known.tasks[other] = known.tasks[other] or redis.call('ZCARD', flow_key(model, other))
        count = math.min(count, known.tasks[other])
      end
      place = place + count
    end
  end
  return place
end
