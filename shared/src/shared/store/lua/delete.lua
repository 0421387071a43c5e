-- delete: forgets a task of this tenant that has ended, with its stream, and the conversation that it left under a name
-- of its own. Each of them may have expired. A task whose door noted nothing is none that can be deleted.
local r = redis.call('HMGET', task, 'state', 'tenant', 'note')
if r[1] and (r[2] ~= args.tenant or (r[3] or '') == '') then return {'missing'} end
if r[1] and r[1] ~= 'ended' then return {'open'} end
return {redis.call('DEL', task, events, args.conversation) > 0 and 'done' or 'missing'}
