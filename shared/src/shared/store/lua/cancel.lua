-- cancel: ends a waiting task at once, asks the worker of a running one, leaves an ended one. With a tenant, a task of
-- another tenant is missing.
local r = redis.call('HMGET', task, 'state', 'tenant', 'wire')
if not r[1] or (args.tenant and r[2] ~= args.tenant) then return {'missing'} end
if r[1] == 'ended' then return {'ended', r[3]} end
if r[1] == 'waiting' then
  finish('REVOKED', '', '', '')
  return {'revoked', 'REVOKED'}
end
redis.call('HSET', task, 'cancel', 1)
redis.call('PUBLISH', prefix .. 'cancel', id)
return {'asked', r[3]}
