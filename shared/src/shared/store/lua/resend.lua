-- resend: takes note that the message of a waiting task is sent again now, if it was last sent long enough ago.
-- One that has no place in the order, because an older version of Headrace has accepted it or given it back, gets it.
local r = redis.call('HMGET', task, 'state', 'sent_at', 'model', 'priority', 'attempt', 'context', 'tenant', 'accepted_at',
  'flow')
if not r[1] then return {'missing'} end
local now = now_ms()
if r[1] ~= 'waiting' or now - tonumber(r[2]) < tonumber(args.age_ms) then return {'no'} end
redis.call('HSET', task, 'sent_at', now)
if tonumber(r[5]) > 0 then
  redis.call('ZADD', key('front', r[3]), r[8], id)
else
  enter_flow(r[3], r[9] or r[4] .. ':' .. r[7], r[8])
end
return {'send', r[3], tonumber(r[5]) > 0 and 'handover' or r[4], r[6]}
