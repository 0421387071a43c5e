-- accept: the record, the place in `waiting`, the deadline and the first event, or a refusal; all or nothing.
local model, priority, tenant, request, version = ARGV[3], ARGV[4], ARGV[5], ARGV[6], ARGV[7]
local timeout_ms, retention_ms = tonumber(ARGV[8]), tonumber(ARGV[9])
local max_waiting, max_tenant_tasks = tonumber(ARGV[10]), tonumber(ARGV[11])
local idempotency_key, fingerprint, context, guard = ARGV[12], ARGV[13], ARGV[14], ARGV[15]

-- The answer to an earlier try of the same call was lost on its way.
if redis.call('EXISTS', task) == 1 then return {'accepted', id} end
local idempotency
if idempotency_key ~= '' then
  idempotency = key('idempotency', tenant .. ':' .. idempotency_key)
  local known = redis.call('HMGET', idempotency, 'task', 'fingerprint')
  if known[1] then
    return {known[2] == fingerprint and 'existing' or 'conflict', known[1]}
  end
end
local waiting = key('waiting', model)
local length = redis.call('ZCARD', waiting)
if length >= max_waiting then
  return {'queue_full', length, redis.call('ZCARD', key('running', model))}
end
local active = redis.call('SCARD', key('tenant', tenant))
if active >= max_tenant_tasks then return {'tenant_full', active} end

local now = now_ms()
redis.call('HSET', task, 'v', version, 'model', model, 'priority', priority, 'tenant', tenant, 'request', request,
  'state', 'waiting', 'wire', 'PENDING', 'attempt', 0, 'tokens', 0, 'crashes', 0, 'losses', 0, 'accepted_at', now,
  'deadline', now + timeout_ms, 'sent_at', now, 'context', context)
redis.call('ZADD', waiting, now, id)
redis.call('ZADD', prefix .. 'deadlines', now + timeout_ms, id)
redis.call('SADD', key('tenant', tenant), id)
local position = redis.call('ZRANK', waiting, id) + 1
append(0, 1, 'status', state_event('status', 'PENDING', ',"position":' .. position .. guard))
-- Nothing outlives its deadline by more than the retention and an hour, even if no janitor ever runs again.
local orphan_ms = timeout_ms + retention_ms + 3600000
redis.call('PEXPIRE', task, orphan_ms)
redis.call('PEXPIRE', events, orphan_ms)
if idempotency then
  redis.call('HSET', idempotency, 'task', id, 'fingerprint', fingerprint)
  redis.call('PEXPIRE', idempotency, timeout_ms + retention_ms)
end
return {'accepted', id}
