-- resend: takes note that the message of a waiting task is sent again now, if it was last sent long enough ago.
local r = redis.call('HMGET', task, 'state', 'sent_at', 'model', 'priority', 'attempt', 'context')
if not r[1] then return {'missing'} end
local now = now_ms()
if r[1] ~= 'waiting' or now - tonumber(r[2]) < tonumber(args.age_ms) then return {'no'} end
redis.call('HSET', task, 'sent_at', now)
return {'send', r[3], tonumber(r[5]) > 0 and 'handover' or r[4], r[6]}
