-- claim: the next attempt for this worker, or the reason why not.
local revision = args.revision
local context = args.context -- of this attempt's span; empty where nobody traces
local r = redis.call('HMGET', task, 'state', 'v', 'model', 'attempt', 'revision', 'deadline', 'tokens', 'void')
local state, model, attempt = r[1], r[3], tonumber(r[4])
if not state then return {'missing'} end
if tonumber(r[2]) > tonumber(args.version) then return {'version'} end
if state == 'ended' then return {'ended'} end
if state == 'running' then return {'held'} end
local now = now_ms()
if now >= tonumber(r[6]) then return {'late'} end
attempt = attempt + 1
-- A model of another revision cannot go on where the last one stopped; and an answer that was refused is void.
local restart = r[8] or (r[5] and r[5] ~= revision and tonumber(r[7]) > 0)
if restart then redis.call('HSET', task, 'tokens', 0) end
if r[8] then redis.call('HDEL', task, 'void') end
redis.call('HSET', task, 'state', 'running', 'wire', 'STARTED', 'attempt', attempt, 'worker', args.worker,
  'revision', revision, 'started_at', now)
redis.call('ZREM', key('waiting', model), id)
count_waiting(false)
redis.call('ZADD', key('running', model), now + tonumber(args.lease_ms), id)
append(attempt, 0, 'status', state_event('status', 'STARTED',
  ',"attempt":' .. attempt .. (restart and ',"restart":true' or '')))
-- The claimant learns which span the attempt before it had; whoever comes after it, which one this has.
local record = redis.call('HGETALL', task)
if context ~= '' then redis.call('HSET', task, 'attempt_context', context) end
return {'claimed', attempt, record, now, restart and 1 or 0}
