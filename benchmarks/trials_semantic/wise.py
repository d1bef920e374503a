import sys; sys.argv=['x','--name','w','--start','3','--steps','0']
exec(open('/root/exp/ft.py').read().split("print('trainable'")[0])
m0={k:v.clone() for k,v in m.state_dict().items()}; h0={k:v.clone() for k,v in head.state_dict().items()}
q=torch.load('/root/exp/ft_b3.pt',weights_only=False)
for al in (.35,.6):
    m.load_state_dict({k:(m0[k]+al*(q['m'][k]-m0[k]) if m0[k].is_floating_point() else m0[k]) for k in m0}); head.load_state_dict({k:h0[k]+al*(q['head'][k]-h0[k]) for k in h0}); evaluate(f'wise {al}')
