-- heartbeat: renews the lease of one running task. Answers ok, cancel or lost.
local r = redis.call('HMGET', task, 'state', 'attempt', 'model', 'cancel')
if r[1] ~= 'running' or r[2] ~= args.attempt then return 'lost' end
redis.call('ZADD', key('running', r[3]), 'XX', now_ms() + tonumber(args.lease_ms), id)
return r[4] and 'cancel' or 'ok'
