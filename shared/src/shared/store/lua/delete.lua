-- delete: forgets a task of this tenant that has ended, with its stream and its result, and the conversation that it left
-- under a name of its own. Each of them may have expired. A task whose door noted nothing is none that can be deleted.
local r = redis.call('HMGET', task, 'state', 'tenant', 'note')
if r[1] and (r[2] ~= args.tenant or (r[3] or '') == '') then return {'missing'} end
if r[1] and r[1] ~= 'ended' then return {'open'} end
local idempotency = field('idempotency')
local gone = redis.call('DEL', task, events) + forget_conversation(args.conversation, args.tenant)
if idempotency then redis.call('DEL', idempotency) end
if r[1] then redis.call('DEL', celery_result()) end
return {gone > 0 and 'done' or 'missing'}
