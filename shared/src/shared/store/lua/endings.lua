-- Ends the task: outcome, status, end, in one step. The caller has checked that it may. The entries stand behind
-- CLOSED, so that whatever a worker still writes for this attempt is refused. Every script that ends tasks is given
-- `retention_ms`, `unstored_ms` and `ended_at`.
local function finish(state, outcome_type, outcome, result)
  -- First: of all that is written here only this has a name of its own, which an ACL may not allow.
  store_result(state, outcome, result)
  local retention_ms = tonumber(args.retention_ms)
  local now = now_ms()
  local r = redis.call('HMGET', task, 'model', 'tenant', 'started_at', 'home', 'worker', 'context', 'idempotency',
    'unstored', 'conversation')
  local model, tenant, context, idempotency = r[1], r[2], r[6], r[7]
  local unstored = r[8] -- the name under which the request's bytes are remembered, or empty
  local kept_ms = unstored and tonumber(args.unstored_ms) or retention_ms
  local prompt, answer = settle(model, tenant, now)
  local attempt = top()
  if outcome_type == 'error' and context and context ~= '' then -- traceparent: 00-<trace id>-...
    outcome = string.format('%s,"traceId":"%s"}', string.sub(outcome, 1, -2), string.sub(context, 4, 35))
  end
  if outcome ~= '' then append(attempt, CLOSED + 1, outcome_type, outcome) end
  append(attempt, CLOSED + 2, 'status', state_event('status', state))
  append(attempt, CLOSED + 3, 'end', state_event('end', state))
  redis.call('HSET', task, 'state', 'ended', 'wire', state, 'ended_at', now, 'outcome', outcome)
  if redis.call('ZREM', key('waiting', model), id) == 1 then leave_order(model, field('flow')) end
  if r[4] then redis.call('ZREM', home_key(model, r[4]), id) end
  if redis.call('ZREM', key('running', model), id) == 1 and r[5] then change_load(model, r[5], -1) end
  redis.call('ZREM', prefix .. 'deadlines', id)
  redis.call('SREM', key('tenant', tenant), id)
  if state == 'SUCCESS' then -- what a queue-full refusal estimates the wait from, and the order what a task will need
    redis.call('HINCRBY', key('done', model), 'tasks', 1)
    redis.call('HINCRBY', key('done', model), 'busy_ms', now - tonumber(r[3]))
    redis.call('HINCRBY', key('done', model), 'prompt_tokens', prompt)
    redis.call('HINCRBY', key('done', model), 'answer_tokens', answer)
  end
  local begun = state ~= 'SUCCESS' and r[9] and redis.call('HMGET', r[9], 'turn', 'messages')
  if begun and begun[1] == id and not begun[2] then -- its first turn brought nothing: no conversation that would count
    forget_conversation(r[9], tenant)
  end
  if unstored then
    redis.call('HSET', task, 'request', '') -- nobody reads it any more
    if unstored ~= '' then redis.call('PEXPIRE', unstored, kept_ms) end
  end
  redis.call('PEXPIRE', task, kept_ms)
  redis.call('PEXPIRE', events, kept_ms)
  if idempotency then redis.call('PEXPIRE', idempotency, kept_ms) end
end

-- Ends a task of which Redis lost what its worker wrote and its readers saw: an answer with a hole in it is none.
local function finish_lost()
  finish('FAILURE', 'error', '{"type":"error","taskId":"' .. id .. '","code":"data_lost",' ..
    '"message":"Redis lost a part of the answer.","retryable":true}', '')
end
