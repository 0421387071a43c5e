-- cancel: ends a waiting task at once, asks the worker of a running one, leaves an ended one.
local tenant, retention_ms = ARGV[3], tonumber(ARGV[4])
local r = redis.call('HMGET', task, 'state', 'tenant', 'wire')
if not r[1] or (tenant ~= '' and r[2] ~= tenant) then return {'missing'} end
if r[1] == 'ended' then return {'ended', r[3]} end
if r[1] == 'waiting' then
  finish('REVOKED', '', '', '', retention_ms)
  return {'revoked', 'REVOKED'}
end
redis.call('HSET', task, 'cancel', 1)
redis.call('PUBLISH', prefix .. 'cancel', id)
return {'asked', r[3]}
