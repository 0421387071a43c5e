-- resend: what the message of a waiting task says, which is sent once more.
-- A task that has no place in the order, because an older version of Headrace has accepted it or given it back, gets it.
local r = redis.call('HMGET', task, 'state', 'model', 'priority', 'attempt', 'context', 'tenant', 'accepted_at', 'flow')
if not r[1] then return {'missing'} end
if r[1] ~= 'waiting' then return {'no'} end
local started_before = tonumber(r[4]) > 0
if started_before then
  redis.call('ZADD', key('front', r[2]), r[7], id)
else
  enter_flow(r[2], r[8] or r[3] .. ':' .. r[6], r[7])
end
return {'send', r[2], started_before and 'handover' or r[3], r[5]}
