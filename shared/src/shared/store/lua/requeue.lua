-- requeue: running -> waiting, in front of all that have not begun; closes the attempt, so that its writes are refused.
-- cause: handover (a planned stop), crash (the engine died under it), loss (the lease ran out), redraw (its answer is
-- not what was demanded: the next attempt begins it anew).
-- The worker that holds the task names its attempt; a lease that ran out is anybody's to close.
local attempt, cause, limit = tonumber(args.attempt), args.cause, tonumber(args.limit)
local r = redis.call('HMGET', task, 'state', 'attempt', 'model', 'accepted_at', 'cancel', 'crashes', 'losses',
  'worker', 'account')
if r[1] ~= 'running' then return {'not_running'} end
local model = r[3]
local running = key('running', model)
if cause == 'loss' then
  if tonumber(redis.call('ZSCORE', running, id) or '0') > now_ms() then return {'alive'} end
  attempt = tonumber(r[2])
elseif tonumber(r[2]) ~= attempt then
  return {'not_running'}
elseif args.written and has_lost(args.written) then
  finish_lost()
  return {'data_lost'}
end
local _, sequence = top()
local crashes, losses = tonumber(r[6]), tonumber(r[7])
if cause == 'crash' then crashes = crashes + 1 end
-- Only attempts that died before their first token count: a task that gets on is not what kills its workers.
if cause == 'loss' then losses = sequence == 0 and losses + 1 or 0 end
redis.call('HSET', task, 'crashes', crashes, 'losses', losses)
if sequence > 0 then redis.call('HSET', task, 'tokens', sequence) end
if r[5] then
  finish('REVOKED', '', '', '')
  return {'revoked'}
end
if crashes >= limit or losses >= limit then
  finish('FAILURE', 'error', args.poisoned, '')
  return {'poisoned'}
end
if cause == 'redraw' then
  redis.call('HINCRBY', task, 'redraws', 1)
  redis.call('HSET', task, 'void', 1)
end
append(attempt, CLOSED, 'status', state_event('status', 'RETRY', ',"attempt":' .. attempt))
redis.call('HSET', task, 'state', 'waiting', 'wire', 'RETRY')
redis.call('HDEL', task, 'worker')
redis.call('ZREM', running, id)
if r[8] then change_load(model, r[8], -1) end
redis.call('ZADD', key('waiting', model), r[4], id)
redis.call('ZADD', key('front', model), r[4], id)
count_waiting(r[9], true)
return {'requeued'}
