-- delete_conversation: refused under an open turn, which would save the conversation anew at its end.
local turn = open_turn(args.conversation)
if turn then return {'conversation_busy', turn} end
return {redis.call('DEL', args.conversation) == 1 and 'done' or 'missing'}
